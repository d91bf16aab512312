"""Transforms between frames, by TF. No other module uses tf2_ros, which is not always installed."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.time import Time

from vlm_perception.navigation.mounting import Transform

try:
    import tf2_ros
except ImportError:  # there are no wheels of it
    tf2_ros = None


class NoTransformError(LookupError):
    """TF has no transform for a frame; the message says why."""


class Transforms:
    """A listener of TF in the executor of `node`."""

    def __init__(self, node: Node) -> None:
        self._buffer = tf2_ros.Buffer() if tf2_ros else None
        self._listener = tf2_ros.TransformListener(self._buffer, node) if tf2_ros else None

    def find(self, target: str, source: str) -> Transform:
        """Return the latest pose of the frame `source` in the frame `target`. Raises NoTransformError."""
        if self._buffer is None:
            raise NoTransformError("tf2_ros is not installed")
        try:
            found = self._buffer.lookup_transform(target, source, Time()).transform
        except tf2_ros.TransformException as error:
            raise NoTransformError(str(error)) from None
        t, r = found.translation, found.rotation
        return Transform((t.x, t.y, t.z), (r.x, r.y, r.z, r.w))
