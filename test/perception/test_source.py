"""One reader of images for all: folders, files, videos and addresses, whatever their names, whole or damaged."""

from __future__ import annotations

import http.server
import os
import re
import struct
import threading
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_perception.address import shown, without_secrets
from vlm_perception.perception.frame import FrameError
from vlm_perception.perception.source import SourceError, image_files, locate, open_source, read_image, sample

COLOURS = [(10 * n, 5 * n, 200 - 10 * n) for n in range(10)]
NOT_UTF8 = b"caf\xe9"


def image(colour) -> np.ndarray:
    return np.full((24, 32, 3), colour, np.uint8)


def png(colour) -> bytes:
    return cv2.imencode(".png", image(colour)[..., ::-1])[1].tobytes()


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def make_video(path, codec="mp4v", rate=10.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (32, 24))
    for colour in COLOURS:
        writer.write(image(colour)[..., ::-1].copy())
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4")


def everything(source, **arguments):
    with open_source(source, **arguments) as opened:
        return opened, list(opened.images)


def test_a_folder_comes_in_the_order_in_which_people_count_and_by_names_that_are_no_text(tmp_path):
    names = [b"frame1.png", b"frame2.PNG", b"frame10.png", NOT_UTF8 + b".png"]
    for name, colour in zip(reversed(names), reversed(COLOURS[:4]), strict=True):
        (tmp_path / os.fsdecode(name)).write_bytes(png(colour))
    (tmp_path / "notes.txt").write_text("not an image")
    opened, images = everything(tmp_path)
    order = [0, 1, 2, 3] if sorted(names) == names else [names.index(name) for name in (NOT_UTF8 + b".png", *names[:3])]
    assert [tuple(image[0, 0]) for image, _ in images] == [COLOURS[n] for n in order]
    assert [stamp for _, stamp in images] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert (opened.kind, opened.live, opened.count, opened.size) == ("folder", False, 4, (32, 24))
    assert str(opened) == f"the folder {tmp_path}: 32x24, 10 Hz, 4 images"


@pytest.mark.parametrize("way", ["name", "address"])
def test_a_name_that_is_no_text_is_an_image_a_video_and_a_folder(tmp_path, video, way):
    folder = tmp_path / os.fsdecode(NOT_UTF8)
    folder.mkdir()
    for name, data in ((b"a.png", png(COLOURS[3])), (b"a.mp4", video.read_bytes())):
        (folder / os.fsdecode(NOT_UTF8 + name)).write_bytes(data)
    for path in (folder, *folder.iterdir()):
        source = str(path) if way == "name" else "file://" + os.fsencode(path).replace(NOT_UTF8, b"caf%E9").decode()
        opened, images = everything(source)
        assert images and opened.size == (32, 24)
        opened.name.encode()  # it can be shown


def test_a_video_is_not_written_by_a_name_that_is_no_text(tmp_path):
    images = pytest.importorskip("vlm_perception.tools.images")
    with pytest.raises(OSError, match="not UTF-8"):
        images.Video(tmp_path / os.fsdecode(NOT_UTF8 + b".webm"), 10.0).add(image(COLOURS[0]))


def test_a_video_has_its_images_in_rgb_at_its_own_times_and_an_end(video):
    opened, images = everything(video)
    assert (opened.kind, opened.live, opened.rate, opened.count) == ("video", False, 10.0, 10)
    assert [stamp for _, stamp in images] == pytest.approx([n / 10 for n in range(10)])
    for (image, _), colour in zip(images, COLOURS, strict=True):
        assert np.abs(image.astype(int) - colour).mean() < 8


def with_times(video: bytes, durations: list[int]) -> bytes:
    """The MP4 with another duration [ticks] of each image: its stts box written anew, and the boxes that hold it."""
    table = struct.pack(">I4sII", 16 + 8 * len(durations), b"stts", 0, len(durations))
    table += b"".join(struct.pack(">II", 1, ticks) for ticks in durations)
    place = video.index(b"stts") - 4
    size = struct.unpack_from(">I", video, place)[0]
    changed = bytearray(video[:place] + table + video[place + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = changed.index(name) - 4
        struct.pack_into(">I", changed, at, struct.unpack_from(">I", changed, at)[0] + len(table) - size)
    return bytes(changed).replace(b"edts", b"free")  # the list of cuts, which has the length before


def test_a_variable_frame_rate_keeps_its_own_times(tmp_path, video):
    data = video.read_bytes()
    tick = struct.unpack_from(">I", data, data.index(b"stts") + 16)[0]
    durations = [1, 5, 1, 1, 20, 1, 1, 3, 1, 1]
    (tmp_path / "a.mp4").write_bytes(with_times(data, [n * tick for n in durations]))
    _, images = everything(tmp_path / "a.mp4")
    assert [stamp for _, stamp in images] == pytest.approx([sum(durations[:n]) / 10 for n in range(10)], abs=1e-3)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves a recording, and a stream of JPEGs of which each third is damaged."""

    recording = b""

    def do_GET(self):
        self.send_response(200)
        if self.path.startswith("/stream"):
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            try:
                for number in range(10_000):
                    data = jpeg(number % 3)
                    data = data[: len(data) // 2] + b"\xff\xd9" if number % 3 == 2 else data
                    head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                    self.wfile.write(head + data + b"\r\n")
                    time.sleep(0.002)
            except OSError:
                return
        else:
            self.send_header("Content-Length", str(len(self.recording)))
            self.end_headers()
            self.wfile.write(self.recording)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(video):
    Handler.recording = video.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_recording_at_an_address_has_an_end_and_a_stream_has_none(server, video):
    for address in (f"{server}/a.mp4", f"file://{video}"):
        opened, images = everything(address)
        assert (opened.kind, opened.live, len(images)) == ("video", False, 10)
        assert images[-1][1] == pytest.approx(0.9)
    with open_source(f"{server}/stream") as opened:
        assert (opened.kind, opened.live, opened.count) == ("stream", True, 0)


def test_damaged_images_of_a_stream_a_video_and_a_folder_are_passed_over_with_a_word(server, tmp_path):
    whole = [jpeg(0), jpeg(1)]
    cut = jpeg(2)[: len(jpeg(2)) // 2] + b"\xff\xd9"
    (tmp_path / "folder").mkdir()
    for number, data in enumerate([whole[0], cut, whole[1]]):
        (tmp_path / "folder" / f"{number}.jpg").write_bytes(data)
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(4):
        writer.write(cv2.imdecode(np.frombuffer(jpeg(seed), np.uint8), cv2.IMREAD_COLOR))
    writer.release()
    film = bytearray((tmp_path / "a.avi").read_bytes())
    middle = (film.index(b"\xff\xd8", film.index(b"\xff\xd8") + 2) + len(film)) // 2
    film[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    (tmp_path / "a.avi").write_bytes(film)
    for source, least in ((f"{server}/stream", 6), (tmp_path / "folder", 2), (tmp_path / "a.avi", 2)):
        words = []
        with open_source(source, words.append) as opened:
            images = [image for image, _ in zip(opened.images, range(least), strict=False)]
        assert len(images) == least and any("damaged" in word for word in words), source


def test_names_come_before_numbers_and_only_what_can_come_later_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("2024").kind == "device" and locate("2024").where == 2024
    (tmp_path / "2024").mkdir()
    assert locate("2024").kind == "folder"
    assert locate("/dev/video77").lasting and locate("rtsp://127.0.0.1/live").lasting and not locate("2024").lasting


def test_what_is_no_image_is_refused_and_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("pipe.mp4")
    (tmp_path / "notes.txt").write_text("This is no film.\n" * 100)
    (tmp_path / "notes.mp4").write_text("This is no film.\n" * 100)
    (tmp_path / "notes.png").write_text("This is no image.\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "a.png")
    cases = {
        "pipe.mp4": "is no file", "link.mp4": "is no file", "notes.txt": "cannot be opened as a video",
        "notes.mp4": "cannot be opened as a video", "notes.png": "expected JPEG, PNG", "empty.mp4": "cannot be opened",
        "pipes": "no image that can be read", "missing.mp4": "does not exist", "x" * 300: "File name too long",
    }  # fmt: skip
    for name, words in cases.items():
        with pytest.raises(SourceError, match=words), open_source(tmp_path / name):
            pass
    for source in ("/dev/zero", "a\0b", "~nobody/x", "file://elsewhere/a.mp4"):
        with pytest.raises(SourceError), open_source(source):
            pass
    with pytest.raises(FrameError, match="it is no file"):
        read_image(tmp_path / "pipes" / "a.png")


def test_a_sample_is_from_all_over_a_video_or_a_folder(tmp_path, video):
    (tmp_path / "deep").mkdir()
    for number in range(9):
        (tmp_path / "deep" / f"{number}.png").write_bytes(png(COLOURS[number]))
    assert len(image_files(tmp_path)) == 0 and len(image_files(tmp_path, recursive=True)) == 9
    assert [tuple(image[0, 0]) for image in sample(tmp_path / "deep", 3)] == [COLOURS[0], COLOURS[4], COLOURS[8]]
    assert len(sample(video, 3)) == 3 and len(sample(video, 50)) == 10
    (tmp_path / "deep" / "3.png").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="3.png.*save it anew"):
        sample(tmp_path / "deep", 9)


SECRET = "hun/xyz@qqq@2"
WITH_SECRETS = [
    f"rtsp://admin:{SECRET}@192.0.2.7/live",
    f"rtsp://{SECRET}@192.0.2.7/live",
    f"rtsp://192.0.2.7:554/user=admin&password={SECRET}&channel=1&stream=0.sdp?",
    f"rtsp://192.0.2.7/user=admin_password={SECRET}_channel=1.sdp",
    f"rtsp://192.0.2.7/live/admin:{SECRET}/1",
    *(f"http://192.0.2.7/video.cgi?x=1&{key}={SECRET}" for key in ("pwd", "token", "key", "auth", "apiKey", "usr")),
    f"http://192.0.2.7/video.cgi?pass%77ord={SECRET}",
    f"http://192.0.2.7/video.cgi?password%3D{SECRET}",
    f"http://proxy/?to=http://admin:{SECRET}@host/",
    f"admin:{SECRET}@192.0.2.7/live",  # the scheme forgotten
    f"rtsp:/admin:{SECRET}@192.0.2.7/live",
]


@pytest.mark.parametrize("address", WITH_SECRETS)
def test_no_part_of_a_password_in_an_address_is_shown(address):
    for words in (shown(address), without_secrets(f"OpenCV: cannot open '{address}': 401", address)):
        assert not re.search("hun|xyz|qqq", words) and "***" in words
    with (
        pytest.raises(SourceError) as error,
        open_source(address.replace("192.0.2.7", "127.0.0.1:9").replace("proxy", "127.0.0.1:9")),
    ):
        pass
    assert not re.search("hun|xyz|qqq", str(error.value))


def test_what_is_not_secret_is_shown():
    assert shown("rtsp://me:a@b@192.0.2.7/live") == "rtsp://***@192.0.2.7/live"
    assert shown("http://192.0.2.7/live?channel=2&pwd=a") == "http://192.0.2.7/live?channel=2&pwd=***"
    for address in ("rtsp://192.0.2.7:554/live/1?channel=2", "http://host/a.mp4", "/data/10@2/a.mp4", "0"):
        assert shown(address) == address


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_any_file_is_a_source_or_an_error(tmp_path_factory, video, data):
    folder = tmp_path_factory.getbasetemp()
    ending = data.draw(st.sampled_from(["mp4", "png", "jpg", "avi", "txt"]))
    content = bytearray(data.draw(st.sampled_from([video.read_bytes(), png(COLOURS[1]), jpeg(0)])))
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    (folder / f"any.{ending}").write_bytes(content)
    try:
        _, images = everything(folder / f"any.{ending}")
    except SourceError as error:
        assert str(error) and "\n" not in str(error)
    else:
        stamps = [stamp for _, stamp in images]
        assert images and stamps == sorted(set(stamps))
        assert all(image.dtype == np.uint8 and image.ndim == 3 for image, _ in images)
