"""The quality of service of images."""

from __future__ import annotations

from rclpy.qos import QoSProfile, ReliabilityPolicy

IMAGES = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
"""Quality of service of published images.

They are offered reliable, so that every subscriber gets them: rviz and rqt ask for reliable, robots for best effort.
Only the newest are kept, so that a slow subscriber gets fewer images and does not delay others."""
