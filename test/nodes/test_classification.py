"""Labels as vision_msgs. There are no wheels of vision_msgs: its messages and the node are stand-ins here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy

from vlm_perception.nodes import classification
from vlm_perception.nodes.classification import ClassificationPublisher
from vlm_perception.perception.smoothing import SmoothedLabel

MESSAGES = ("Classification", "LabelInfo", "ObjectHypothesis", "VisionClass")


class Node:
    """Keeps what is published, by topic."""

    def __init__(self):
        self.published = {}
        self.qos = {}

    def create_lifecycle_publisher(self, kind, topic, qos):
        self.published[topic], self.qos[topic] = [], qos
        return SimpleNamespace(publish=self.published[topic].append)


@pytest.fixture
def node(monkeypatch):
    stand_in = SimpleNamespace(**{name: type(name, (SimpleNamespace,), {}) for name in MESSAGES})
    monkeypatch.setattr(classification, "vision_msgs", stand_in)
    return Node()


def test_a_label_is_a_hypothesis_whose_class_the_latched_label_info_names(node):
    publisher = ClassificationPublisher(node, "front/")
    for label, confidence in (("wall", 0.9), ("unknown", 0.3), ("clear", 0.8)):
        publisher.publish("header", SmoothedLabel(label, confidence), ("clear", "wall"))
    (info,) = node.published["front/label_info"]
    assert node.qos["front/label_info"].durability == DurabilityPolicy.TRANSIENT_LOCAL
    names = {str(each.class_id): each.class_name for each in info.class_map}
    assert names == {"0": "clear", "1": "wall", "65535": "unknown"}
    told = node.published["front/scene_classification"]
    assert [message.header for message in told] == ["header"] * 3
    assert [(names[each.class_id], each.score) for message in told for each in message.results] == [
        ("wall", 0.9),
        ("unknown", 0.3),
        ("clear", 0.8),
    ]


def test_other_options_are_told_anew(node):
    publisher = ClassificationPublisher(node, "")
    publisher.publish("header", SmoothedLabel("wall", 0.9), ("clear", "wall"))
    publisher.publish("header", SmoothedLabel("door", 0.9), ("door", "wall"))
    assert [info.class_map[0].class_name for info in node.published["label_info"]] == ["clear", "door"]
    assert node.published["scene_classification"][-1].results[0].class_id == "0"
