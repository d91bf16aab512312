"""A calibration is read as camera_calibration writes it, or refused in words."""

from __future__ import annotations

import math

import pytest
import yaml

from vlm_perception.perception.camera_calibration import CalibrationError, CameraCalibration, read_calibration

K = [500.0, 0.0, 319.5, 0.0, 501.0, 239.5, 0.0, 0.0, 1.0]
CONTENT = {
    "image_width": 640,
    "image_height": 480,
    "camera_name": "front",
    "camera_matrix": {"rows": 3, "cols": 3, "data": K},
    "distortion_model": "plumb_bob",
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.1, -0.2, 0, 0, 0]},
    "rectification_matrix": {"rows": 3, "cols": 3, "data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
    "projection_matrix": {"rows": 3, "cols": 4, "data": [490.0, 0, 320, 0, 0, 490, 240, 0, 0, 0, 1, 0]},
}


def written(folder, content):
    path = folder / "camera.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_the_file_is_read(tmp_path):
    calibration = read_calibration(written(tmp_path, CONTENT))
    assert (calibration.width, calibration.height, calibration.model) == (640, 480, "plumb_bob")
    assert (list(calibration.k), list(calibration.d)) == (K, [0.1, -0.2, 0.0, 0.0, 0.0])
    assert (calibration.r[4], calibration.p[0]) == (1.0, 490.0)


def test_a_pinhole_has_the_focal_length_of_its_field_of_view():
    calibration = CameraCalibration.pinhole(640, 480, 1.0)
    assert calibration.k[0] == calibration.k[4] == pytest.approx(240 / math.tan(0.5))
    assert calibration.k[2::3] == (319.5, 239.5, 1.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no image_width"),
        ("[1, 2", "is no calibration as camera_calibration writes it"),
        ("%YAML:1.0\n---\nK: !!opencv-matrix {rows: 3}", "is no calibration"),
        ({**CONTENT, "image_width": 0}, "image_width is 0, expected a number of pixels"),
        ({**CONTENT, "image_height": "480"}, "image_height is '480'"),
        ({**CONTENT, "distortion_model": None}, "distortion_model is None, expected a text"),
        ({**CONTENT, "camera_matrix": {"data": K[:8]}}, "camera_matrix .* expected 9 finite numbers"),
        ({**CONTENT, "camera_matrix": {"data": [*K[:8], math.nan]}}, "camera_matrix .* expected 9 finite numbers"),
        ({**CONTENT, "camera_matrix": {"data": [*K[:8], 10**400]}}, "camera_matrix .* expected 9 finite numbers"),
        ({**CONTENT, "projection_matrix": K}, "projection_matrix are None"),
        ({**CONTENT, "distortion_coefficients": {"data": ["a"]}}, "distortion_coefficients .* expected finite numbers"),
    ],
)
def test_what_is_no_calibration_is_refused_in_words(tmp_path, content, words):
    with pytest.raises(CalibrationError, match=words):
        read_calibration(written(tmp_path, content))


def test_what_is_no_file_or_too_large_is_refused_in_words(tmp_path):
    large = tmp_path / "large.yaml"
    large.write_bytes(b" " * (2 << 20))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, large, tmp_path / "binary.yaml"):
        with pytest.raises(CalibrationError, match="is no calibration"):
            read_calibration(path)
    with pytest.raises(FileNotFoundError):
        read_calibration(tmp_path / "missing.yaml")
