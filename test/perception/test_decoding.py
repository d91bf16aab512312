"""From camera messages to RGB: every usual encoding, padding, byte order, compression, and broken ones."""

from __future__ import annotations

import array
import io
import re
import resource
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_perception.perception import colour_conversion, image_message
from vlm_perception.perception.compressed_image import MAX_PIXELS, decode_file
from vlm_perception.perception.frame import FrameError, stamp_of
from vlm_perception.perception.image_message import decode

HEIGHT, WIDTH = 48, 64
HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=12, nanosec=345), frame_id="camera_optical_frame")
LEFT, RIGHT = (200, 30, 60), (20, 90, 220)  # red left of blue: any mix-up of channels or sides shows


def scene() -> np.ndarray:
    rgb = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    rgb[:, : WIDTH // 2], rgb[:, WIDTH // 2 :] = LEFT, RIGHT
    return rgb


def image(encoding: str, pixels: np.ndarray, padding: int = 0, bigendian: bool = False, **changes):
    rows = pixels.astype(pixels.dtype.newbyteorder(">" if bigendian else "<"))
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    fields = {
        "header": HEADER,
        "encoding": encoding,
        "height": HEIGHT,
        "width": WIDTH,
        "step": rows.shape[1],
        "is_bigendian": int(bigendian),
        "data": array.array("B", rows.tobytes()),
    }
    return SimpleNamespace(**{**fields, **changes})


def bayer(pattern: str) -> np.ndarray:
    """The mosaic that a sensor with this 2x2 `pattern` would see."""
    rgb, mosaic = scene(), np.empty((HEIGHT, WIDTH), np.uint8)
    for index, colour in enumerate(pattern):
        rows, columns = slice(index // 2, None, 2), slice(index % 2, None, 2)
        mosaic[rows, columns] = rgb[rows, columns, "rgb".index(colour)]
    return mosaic


def yuv(order: str) -> np.ndarray:
    """Packed 4:2:2 of the image, in the byte `order` of a pair of pixels."""
    full = cv2.cvtColor(scene(), cv2.COLOR_RGB2YUV_I420)  # limited range, as the video encodings have
    luma = full[:HEIGHT]
    chroma = full[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2).repeat(2, axis=1)
    packed = np.empty((HEIGHT, WIDTH * 2), np.uint8)
    for position, kind in enumerate(order):
        packed[:, position::4] = luma[:, position // 2 :: 2] if kind == "Y" else chroma["uv".index(kind)]
    return packed


def two_planes(order: str) -> np.ndarray:
    full = cv2.cvtColor(scene(), cv2.COLOR_RGB2YUV_I420)
    u, v = full[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    pairs = np.stack((u, v) if order == "uv" else (v, u), axis=-1).reshape(HEIGHT // 2, WIDTH)
    return np.vstack([full[:HEIGHT], pairs])


RGB = scene()
OPAQUE = np.full((HEIGHT, WIDTH, 1), 9, np.uint8)
GREY = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH)
CASES = {
    "rgb8": (RGB, RGB, 0),
    "bgr8": (RGB[..., ::-1], RGB, 0),
    "8UC3": (RGB[..., ::-1], RGB, 0),
    "rgba8": (np.dstack([RGB, OPAQUE]), RGB, 0),
    "bgra8": (np.dstack([RGB[..., ::-1], OPAQUE]), RGB, 0),
    "8UC4": (np.dstack([RGB[..., ::-1], OPAQUE]), RGB, 0),
    "rgb16": (RGB.astype(np.uint16) * 257, RGB, 0),
    "bgr16": (RGB[..., ::-1].astype(np.uint16) * 257, RGB, 0),
    "rgba16": (np.dstack([RGB, OPAQUE]).astype(np.uint16) * 257, RGB, 0),
    "bgra16": (np.dstack([RGB[..., ::-1], OPAQUE]).astype(np.uint16) * 257, RGB, 0),
    "mono8": ((GREY % 256).astype(np.uint8), np.dstack([GREY % 256] * 3), 0),
    "8UC1": ((GREY % 256).astype(np.uint8), np.dstack([GREY % 256] * 3), 0),
    "mono16": ((GREY * 21).astype(np.uint16), np.dstack([np.rint(GREY * 21 / 257)] * 3), 0),
    "yuv422": (yuv("uYvY"), RGB, 3),
    "uyvy": (yuv("uYvY"), RGB, 3),
    "yuv422_yuy2": (yuv("YuYv"), RGB, 3),
    "yuyv": (yuv("YuYv"), RGB, 3),
    "nv12": (two_planes("uv"), RGB, 3),
    "nv21": (two_planes("vu"), RGB, 3),
    **{f"bayer_{p}8": (bayer(p), RGB, 2) for p in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{p}16": (bayer(p).astype(np.uint16) * 257, RGB, 2) for p in ("rggb", "bggr", "gbrg", "grbg")},
}


def assert_close(result: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    assert result.dtype == np.uint8 and result.shape == (HEIGHT, WIDTH, 3) and result.flags.c_contiguous
    wrong = np.abs(result.astype(int) - np.asarray(expected).astype(int)) > tolerance
    wrong[[0, 1, -2, -1]] = wrong[:, [0, 1, -2, -1]] = False  # a mosaic's rim is guessed
    wrong[:, WIDTH // 2 - 2 : WIDTH // 2 + 2] &= tolerance == 0  # subsampled colours mix at the edge
    assert not wrong.any()


def test_every_known_encoding_is_tested():
    assert set(CASES) == set(image_message.ENCODINGS)


@pytest.mark.parametrize("padding", [0, 12], ids=["tight", "padded"])
@pytest.mark.parametrize("bigendian", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("encoding", CASES)
def test_decodes_to_the_same_image(encoding, padding, bigendian):
    pixels, expected, tolerance = CASES[encoding]
    frame = decode(image(encoding, pixels, padding, bigendian))
    assert_close(frame.image, expected, tolerance)
    assert stamp_of(image(encoding, pixels, padding, bigendian)) == 12_000_000_345


@pytest.mark.skipif(not colour_conversion.cv_bridge_works(), reason="needs a cv_bridge that works here")
@pytest.mark.parametrize("encoding", CASES)
def test_cv_bridge_and_rosbags_give_equal_images(monkeypatch, encoding):
    message = image(encoding, CASES[encoding][0], padding=12)
    results = []
    for convert in (colour_conversion.cv_bridge_to_rgb, colour_conversion.rosbags_to_rgb):
        monkeypatch.setattr(colour_conversion, "_converter", lambda convert=convert: convert)
        results.append(decode(message).image)
    assert np.array_equal(*results)


@pytest.mark.parametrize("kind", ["bytes", "array", "numpy"])
def test_data_may_be_any_buffer(kind):
    message = image("bgr8", RGB[..., ::-1])
    data = bytes(message.data)
    message.data = {"bytes": data, "array": array.array("B", data), "numpy": np.frombuffer(data, np.uint8)}[kind]
    assert_close(decode(message).image, RGB, 0)


def compressed(format: str, data: bytes):
    return SimpleNamespace(header=HEADER, format=format, data=array.array("B", data))


def encoded(extension: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("format", "data", "tolerance"),
    [
        ("jpeg", encoded(".jpg", RGB[..., ::-1]), 6),
        ("rgb8; jpeg compressed bgr8", encoded(".jpg", RGB[..., ::-1]) + bytes(16), 6),
        ("png", encoded(".png", RGB[..., ::-1]), 0),
        ("png", encoded(".png", np.dstack([RGB[..., ::-1], OPAQUE])), 0),
        ("png", encoded(".png", RGB[..., ::-1].astype(np.uint16) * 257), 0),
    ],
)
def test_compressed(format, data, tolerance):
    assert_close(decode(compressed(format, data)).image, RGB, tolerance)


def test_a_grey_jpeg_is_an_image_too():
    result = decode(compressed("mono8; jpeg compressed", encoded(".jpg", RGB[..., 1]))).image
    assert_close(result, np.dstack([RGB[..., 1]] * 3), 6)


JPEG = encoded(".jpg", RGB[..., ::-1])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (image("rgb9", RGB), ["'rgb9'", "rgb8"]),
        (image("", RGB), ["''", "rgb8"]),
        (image("32FC1", RGB), ["'32FC1'", "mono8"]),
        (image("rgb8", RGB, height=0), ["64x0", "1x1"]),
        (image("rgb8", RGB, width=0), ["0x48", "1x1"]),
        (image("rgb8", RGB, height=49), ["64x49", "9216 bytes", "9408"]),
        (image("rgb8", RGB, data=b""), ["0 bytes", "9216"]),
        (image("rgb8", RGB, step=191), ["191", "192"]),
        (image("rgb8", RGB, step=0), ["step", "192"]),
        (image("rgb8", RGB, height=2**32 - 1, width=2**32 - 1, step=2**32 - 1), ["pixels", "100000000"]),
        (image("mono16", RGB, step=100), ["100", "128"]),
        (image("yuv422", yuv("uYvY"), width=63), ["odd width", "even"]),
        (image("nv12", two_planes("uv"), height=47), ["odd height", "even"]),
        (compressed("jpeg", b""), ["jpeg", "0 bytes", "empty"]),
        (compressed("jpeg", b"not an image at all"), ["19 bytes", "cannot be decoded"]),
        (compressed("jpeg", JPEG[: len(JPEG) // 2]), ["cut or damaged"]),
        (compressed("png", encoded(".png", RGB)[:-20]), ["ends too early"]),
        (compressed("", b"\xff\xd8\xff\xd9"), ["no format named", "cannot be decoded"]),
    ],
)
def test_what_is_not_an_image_is_one_clear_error(message, words):
    with pytest.raises(FrameError) as error:
        decode(message)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_rgb8_is_a_view_of_the_messages_bytes():
    message = image("rgb8", RGB)
    assert np.shares_memory(decode(message).image, np.frombuffer(message.data, np.uint8))


def photo(height: int = 240, width: int = 320) -> np.ndarray:
    """An image with something to see everywhere, BGR."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


PHOTO = {kind: encoded(f".{kind}", photo()) for kind in ("jpg", "png", "tiff")}


@pytest.mark.parametrize("behind", [bytes(63), bytes(4096), b"\xff" * 512, b"SEFT" * 40])
@pytest.mark.parametrize("kind", PHOTO)
def test_what_follows_the_end_of_a_compressed_image_does_not_matter(kind, behind):
    whole = decode(compressed(kind, PHOTO[kind])).image
    assert np.array_equal(decode(compressed(kind, PHOTO[kind] + behind)).image, whole)
    assert np.array_equal(decode_file(PHOTO[kind] + behind, "a file"), whole)


def damaged(kind: str, way: str) -> bytes:
    data = PHOTO[kind]
    middle = len(data) // 2
    if way == "cut":
        return data[:middle]
    if way == "cut, with an end":
        return data[:middle] + {"jpg": b"\xff\xd9", "png": data[-12:], "tiff": b""}[kind]
    if way == "overwritten":
        return data[:middle] + np.random.default_rng(0).bytes(500) + data[middle + 500 :]
    return data[:middle] + data[middle + 500 :]  # a lost packet


@pytest.mark.parametrize("way", ["cut", "cut, with an end", "overwritten", "a part is missing"])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_an_image_that_is_cut_or_damaged_is_refused_in_a_message_and_in_a_file(kind, way):
    for read in (lambda data: decode(compressed(kind, data)), lambda data: decode_file(data, "a file")):
        with pytest.raises(FrameError, match="cut or damaged|is damaged|ends too early"):
            read(damaged(kind, way))


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what it passes over
@pytest.mark.parametrize("kind", ["webp", "bmp", "ppm", "tiff"])
def test_image_files_of_other_kinds_are_read_and_refused_when_they_are_cut(kind):
    data = encoded(f".{kind}", RGB[..., ::-1])
    assert_close(decode_file(data, "a file"), RGB, 8)
    with pytest.raises(FrameError, match="a file"):
        decode_file(data[: len(data) * 2 // 3], "a file")


def test_a_webcams_few_bytes_too_many_before_a_marker_are_no_damage():
    data = PHOTO["jpg"]
    padded = data[:-2] + bytes(range(1, 9)) + data[-2:]
    assert np.array_equal(decode(compressed("jpeg", padded)).image, decode(compressed("jpeg", data)).image)


def bomb(kind: str) -> bytes:
    """A few bytes that claim 60,000 x 60,000 pixels."""
    size = 60_000
    if kind == "png":
        header = b"IHDR" + struct.pack(">II5B", size, size, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = encoded(".jpg" if kind == "jpeg" else f".{kind}", RGB[..., ::-1])
    if kind == "jpeg":
        start = data.index(b"\xff\xc0") + 5
        return data[:start] + struct.pack(">HH", size, size) + data[start + 4 :]
    return data.replace(
        struct.pack("<HHI", 256, 3, 1) + struct.pack("<HH", WIDTH, 0), struct.pack("<HHII", 256, 4, 1, size)
    ).replace(struct.pack("<HHI", 257, 3, 1) + struct.pack("<HH", HEIGHT, 0), struct.pack("<HHII", 257, 4, 1, size))


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_the_size_is_limited_before_anything_is_decoded_as_for_raw_images(kind):
    for read in (lambda data: decode(compressed(kind, data)), lambda data: decode_file(data, "a file")):
        before = peak_memory()
        with pytest.raises(FrameError, match=rf"at most {MAX_PIXELS}.*"):
            read(bomb(kind))
        assert peak_memory() - before < 100e6


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


@pytest.mark.parametrize("kind", ["gif", "webp", "bmp"])
def test_messages_hold_what_the_transports_send_and_nothing_else(kind):
    file = io.BytesIO()
    PIL.Image.fromarray(RGB).save(file, kind)
    with pytest.raises(FrameError, match="expected JPEG, PNG or TIFF"):
        decode(compressed(kind, file.getvalue()))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_compressed_mosaic_has_the_colours_of_the_raw_one(pattern, kind, bits):
    mosaic = bayer(pattern).astype(np.uint16) * 257 if bits == 16 else bayer(pattern)
    frame = decode(compressed(f"bayer_{pattern}{bits}; {kind} compressed ", encoded(f".{kind}", mosaic)))
    assert_close(frame.image, RGB, 2)
    assert not frame.doubt


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (compressed("bayer_rggb8; jpeg compressed mono8", encoded(".jpg", RGB[..., 0])), "colours of bayer_rggb8"),
        (compressed("yuv422_yuy2; jpeg compressed mono8", encoded(".jpg", RGB[..., 0])), "colours of yuv422_yuy2"),
        (image("mono16", (GREY % 4096).astype(np.uint16)), "have 12 bits"),
        (image("bayer_rggb16", bayer("rggb").astype(np.uint16) * 16), "have 12 bits"),
        (compressed("mono16; png compressed ", encoded(".png", (GREY % 4096).astype(np.uint16))), "have 12 bits"),
        (image("mono8", RGB[..., 0], data=array.array("B", RGB.tobytes())), "9216 bytes.*needs 3072"),
    ],
)
def test_what_may_not_be_what_the_camera_sees_is_decoded_with_a_doubt(message, words):
    assert re.search(words, decode(message).doubt)


def test_without_a_reason_there_is_no_doubt():
    for encoding, (pixels, _, _) in CASES.items():
        assert not decode(image(encoding, pixels, padding=12)).doubt
    for format in ("mono8; jpeg compressed mono8", "jpeg", "png"):
        assert not decode(compressed(format, encoded(".jpg", RGB[..., 0]))).doubt


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_turned_upright_as_its_camera_was_held(tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(photo()).save(tmp_path / "a.jpg", exif=exif)
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / "a.jpg")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(decode_file((tmp_path / "a.jpg").read_bytes(), "a.jpg"), expected)


# Whatever comes in, there is an image or a FrameError, and memory stays bounded.

BYTES = st.binary(max_size=300)


@st.composite
def spoilt(draw) -> bytes:
    """Bytes of a real image, some of them changed, cut off or put in."""
    data = bytearray(draw(st.sampled_from(SPOILT)))
    for _ in range(draw(st.integers(0, 4))):
        # Headers are short, and most of what can be wrong is in them.
        place = draw(st.integers(0, min(len(data), 700) - 1) | st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert"]))
        if kind == "flip":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[place] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del data[max(place, 8) :]
        else:
            data[place:place] = draw(BYTES)
    return bytes(data)


SPOILT = [
    *(encoded(kind, RGB[..., ::-1]) for kind in (".jpg", ".png", ".tiff", ".bmp", ".webp", ".ppm")),
    cv2.imencode(".jpg", RGB, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    encoded(".png", GREY.astype(np.uint16)),
    encoded(".png", np.dstack([RGB, OPAQUE])),
]
FUZZ = settings(max_examples=150, deadline=None, database=None, derandomize=True)


def assert_an_image_or_an_error(read) -> None:
    try:
        result = read()
    except FrameError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3 and result.size


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(
    spoilt() | BYTES,
    st.sampled_from(["", "jpeg", "bayer_rggb8; png compressed ", "mono16; tiff compressed "]) | st.text(),
)
def test_any_compressed_message_is_an_image_or_an_error(data, format):
    assert_an_image_or_an_error(lambda: decode(compressed(format, data)).image)
    assert peak_memory() < LIMIT


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what it passes over
@FUZZ
@given(spoilt() | BYTES)
def test_any_file_is_an_image_or_an_error(data):
    assert_an_image_or_an_error(lambda: decode_file(data, "a file"))
    assert peak_memory() < LIMIT


NUMBERS = st.integers(0, 70) | st.integers(0, 2**32 - 1)


@FUZZ
@given(
    st.sampled_from(image_message.ENCODINGS) | st.text(max_size=20),
    NUMBERS, NUMBERS, NUMBERS, st.integers(0, 20_000), st.integers(0, 255),
)  # fmt: skip
def test_any_raw_message_is_an_image_or_an_error(encoding, height, width, step, size, bigendian):
    message = image(encoding, RGB, height=height, width=width, step=step)
    message.data, message.is_bigendian = array.array("B", bytes(size)), bigendian
    assert_an_image_or_an_error(lambda: decode(message).image)
    assert peak_memory() < LIMIT


LIMIT = peak_memory() + 1.5e9
"""Of the whole process: an image of MAX_PIXELS, and as much again while it is decoded."""
