"""The quality of service of images."""

from __future__ import annotations

from rclpy.qos import QoSProfile, ReliabilityPolicy

IMAGES = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
"""Offered reliable, so that everybody hears them: rviz and rqt ask for reliable, robots for best effort.

Only the newest are kept, so a subscriber that is slow gets fewer and holds up nobody."""
