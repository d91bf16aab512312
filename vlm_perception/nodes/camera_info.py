"""CameraInfo messages from calibrations."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from vlm_perception.perception.camera_calibration import CalibrationError, CameraCalibration, read_calibration


def calibration_at(url: str) -> CameraCalibration:
    """Return the calibration at `url`: file:///path, package://package/path or a path.

    Raises CalibrationError or OSError.
    """
    parts = urlsplit(url)
    if parts.scheme == "package":
        try:
            folder = get_package_share_directory(parts.netloc)
        except (PackageNotFoundError, ValueError):
            raise CalibrationError(f"camera_info_url is {url!r:.200}: there is no package {parts.netloc!r}") from None
        return read_calibration(Path(folder, unquote(parts.path).lstrip("/")))
    if parts.scheme == "file":
        return read_calibration(Path(unquote(parts.path)))
    if "://" in url:
        raise CalibrationError(
            f"camera_info_url is {url!r:.200}, expected file:///path/to/camera.yaml or package://package/path"
        )
    return read_calibration(Path(url).expanduser())


def camera_info(calibration: CameraCalibration, header: Header) -> CameraInfo:
    """Return the CameraInfo of `calibration` for the image with this `header`."""
    return CameraInfo(
        header=header,
        width=calibration.width,
        height=calibration.height,
        distortion_model=calibration.model,
        d=list(calibration.d),
        k=list(calibration.k),
        r=list(calibration.r),
        p=list(calibration.p),
    )
