"""The label as `vision_msgs/Classification`, beside our own message, where that package is installed."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from vlm_perception.perception.smoothing import SmoothedLabel, SmoothingSettings

try:
    from vision_msgs import msg as vision_msgs
except ImportError:  # there are no wheels of it
    vision_msgs = None

UNLABELED = 65535
"""The class_id of `unknown` (`vision_msgs/VisionClass`)."""


class ClassificationPublisher:
    """Publisher of labels on `scene_classification`, and of their class_ids on the latched `label_info`."""

    def __init__(self, node: LifecycleNode, prefix: str) -> None:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._labels = node.create_lifecycle_publisher(vision_msgs.Classification, f"{prefix}scene_classification", 10)
        self._info = node.create_lifecycle_publisher(vision_msgs.LabelInfo, f"{prefix}label_info", latched)
        self._told: tuple[str, ...] = ()

    def publish(self, header: Header, smoothed: SmoothedLabel, options: Sequence[str]) -> None:
        """Publish the label of `scene_label` as the only hypothesis; before it, new classes."""
        if tuple(options) != self._told:
            self._told = tuple(options)
            names = {**dict(enumerate(options)), UNLABELED: SmoothingSettings.unknown}
            classes = [vision_msgs.VisionClass(class_id=number, class_name=name) for number, name in names.items()]
            self._info.publish(vision_msgs.LabelInfo(header=header, class_map=classes))
        number = self._told.index(smoothed.label) if smoothed.label in options else UNLABELED
        hypothesis = vision_msgs.ObjectHypothesis(class_id=str(number), score=smoothed.confidence)
        self._labels.publish(vision_msgs.Classification(header=header, results=[hypothesis]))
