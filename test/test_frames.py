"""From camera messages to RGB: every usual encoding, padding, byte order, compression, and broken ones."""

from __future__ import annotations

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vlm_perception.perception import frames
from vlm_perception.perception.frames import FrameError, decode

HEIGHT, WIDTH = 48, 64
HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=12, nanosec=345), frame_id="camera_optical_frame")
LEFT, RIGHT = (200, 30, 60), (20, 90, 220)  # red left of blue: any mix-up of channels or sides shows


def picture() -> np.ndarray:
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
    rgb, mosaic = picture(), np.empty((HEIGHT, WIDTH), np.uint8)
    for index, colour in enumerate(pattern):
        rows, columns = slice(index // 2, None, 2), slice(index % 2, None, 2)
        mosaic[rows, columns] = rgb[rows, columns, "rgb".index(colour)]
    return mosaic


def yuv(order: str) -> np.ndarray:
    """Packed 4:2:2 of the picture, in the byte `order` of a pair of pixels."""
    full = cv2.cvtColor(picture(), cv2.COLOR_RGB2YUV_I420)  # limited range, as the video encodings have
    luma = full[:HEIGHT]
    chroma = full[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2).repeat(2, axis=1)
    packed = np.empty((HEIGHT, WIDTH * 2), np.uint8)
    for position, kind in enumerate(order):
        packed[:, position::4] = luma[:, position // 2 :: 2] if kind == "Y" else chroma["uv".index(kind)]
    return packed


def two_planes(order: str) -> np.ndarray:
    full = cv2.cvtColor(picture(), cv2.COLOR_RGB2YUV_I420)
    u, v = full[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    pairs = np.stack((u, v) if order == "uv" else (v, u), axis=-1).reshape(HEIGHT // 2, WIDTH)
    return np.vstack([full[:HEIGHT], pairs])


RGB = picture()
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
    assert set(CASES) == set(frames.ENCODINGS)


@pytest.mark.parametrize("padding", [0, 12], ids=["tight", "padded"])
@pytest.mark.parametrize("bigendian", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("encoding", CASES)
def test_decodes_to_the_same_picture(encoding, padding, bigendian):
    pixels, expected, tolerance = CASES[encoding]
    frame = decode(image(encoding, pixels, padding, bigendian))
    assert_close(frame.image, expected, tolerance)
    assert (frame.stamp, frame.frame_id) == (12_000_000_345, "camera_optical_frame")


@pytest.mark.skipif(not frames.cv_bridge_works(), reason="needs a ROS distribution's cv_bridge that works here")
@pytest.mark.parametrize("encoding", CASES)
def test_cv_bridge_and_rosbags_give_equal_pictures(monkeypatch, encoding):
    message = image(encoding, CASES[encoding][0], padding=12)
    results = []
    for convert in (frames.cv_bridge_to_rgb, frames.rosbags_to_rgb):
        monkeypatch.setattr(frames, "_to_rgb", lambda convert=convert: convert)
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


def test_a_grey_jpeg_is_a_picture_too():
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
        (compressed("jpeg", b"not a picture at all"), ["20 bytes", "cannot be decoded"]),
        (compressed("jpeg", JPEG[: len(JPEG) // 2]), ["ends too early"]),
        (compressed("png", encoded(".png", RGB)[:-20]), ["ends too early"]),
        (compressed("", b"\xff\xd8\xff\xd9"), ["no format named", "cannot be decoded"]),
    ],
)
def test_what_is_not_a_picture_is_one_clear_error(message, words):
    with pytest.raises(FrameError) as error:
        decode(message)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_rgb8_is_a_view_of_the_messages_bytes():
    message = image("rgb8", RGB)
    assert np.shares_memory(decode(message).image, np.frombuffer(message.data, np.uint8))
