"""Checks of the running ROS system: its nodes, cameras, velocity commands and clocks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSCompatibility, qos_check_compatible

from vlm_perception.nodes.camera_topics import may_be_camera
from vlm_perception.tools.checks.finding import Finding, green, red, yellow
from vlm_perception.tools.checks.seen import BEST_EFFORT, IMAGES, ImageStream, Observation, TopicEndpoint

TWISTS = ("geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped")
NODES = ("classifier", "navigator")
MAX_AGE = 1.0
"""Largest age of an image [s], without a classifier's `max_frame_age`."""
SLOW = 5.0
"""Rate of images below which every answer is late [Hz]."""
LOST = 0.01
"""Share of lost images above which there is a finding."""
START_CLASSIFIER = "ros2 launch vlm_perception bringup.launch.py image_topic:=/your/topic"


def nodes(seen: Observation) -> list[Finding]:
    """Check that classifier and navigator run, once each, and report their health."""
    if not seen.nodes:
        words = "no node is there, neither ours nor another"
        remedy = f"{START_CLASSIFIER}; if some should be there: the same ROS_DOMAIN_ID and discovery range"
        return [yellow("nodes", words, remedy)]
    findings = []
    for name in NODES:
        running = seen.called(name)
        if not running:
            findings.append(yellow(name, "does not run", START_CLASSIFIER))
        for node in sorted(set(running)):
            if running.count(node) > 1:
                words = f"{running.count(node)} nodes are called {node}: they answer in each other's place"
                findings.append(red(name, words, "end all but one, or give each robot a namespace"))
            findings.append(_health(name, node, seen.health.get(node)))
    return findings


def _health(name: str, node: str, status: DiagnosticStatus | None) -> Finding:
    if status is None:
        return red(
            name,
            f"{node} says nothing on /diagnostics: it hangs, or has died",
            "end it and start it again; see its log",
        )
    words = f"{node}: {status.message}"
    if status.level == DiagnosticStatus.OK:
        return green(name, words)
    remedy = "as it says; ros2 topic echo /diagnostics has its figures"
    return (yellow if status.level == DiagnosticStatus.WARN else red)(name, words, remedy)


def cameras(seen: Observation) -> list[Finding]:
    """Check the publishers of each camera's topic, and the images received."""
    return [finding for topic in seen.images for finding in (_camera(seen, topic) or [])]


def _camera(seen: Observation, topic: str) -> list[Finding]:
    about = f"camera {topic}"
    publishers, stream = seen.publishers.get(topic, []), seen.images[topic]
    images = [end for end in publishers if end.type in IMAGES]
    if not images:
        own = seen.called("classifier")
        others = sorted(
            name
            for name, ends in seen.publishers.items()
            if may_be_camera(name) and any(end.type in IMAGES and end.node not in own for end in ends)
        )
        expected = " or ".join(IMAGES)
        words = f"it is a {publishers[0].type}, expected {expected}" if publishers else "nobody publishes it"
        remedy = (
            f"image_topic:={others[0]} (ros2 launch; there are {', '.join(others[:5])})" if others else "start a camera"
        )
        return [(red if seen.called("classifier") or others else yellow)(about, words, remedy)]
    findings = []
    if len(images) > 1:
        words = f"{len(images)} publish it: {', '.join(end.node for end in images)}"
        findings.append(yellow(about, words, "end one of them, or give each camera a topic of its own"))
    findings += _quality(seen, topic, images)
    if not stream.arrivals:
        words = f"{images[0].node} publishes it and nothing came"
        status = seen.health.get(images[0].node)
        if status and status.level != DiagnosticStatus.OK:
            return [*findings, red(about, f"{words}: {status.message}", "as it says; see its log")]
        remedy = "look whether the camera delivers; large images need the profile in its process, too (see profile)"
        return [*findings, red(about, words, remedy)]
    if stream.problem:
        return [*findings, red(about, stream.problem, "set the driver to another encoding, rgb8 or bgr8")]
    findings += _stamps(seen, topic)
    if stream.doubt:
        findings.append(yellow(about, stream.doubt, "the settings of the camera's driver"))
    if stream.lost > LOST and len(images) == 1:
        words = f"{stream.lost:.0%} of {stream.form} were lost on the way, {stream.rate:.1f} Hz came"
        findings.append(
            yellow(about, words, "the shared-memory profile in every process (see profile), or smaller images")
        )
    if stream.rate < SLOW:
        words = f"{stream.rate:.1f} Hz, which makes every answer late"
        findings.append(
            yellow(about, words, f"a faster mode of the camera, {SLOW:.0f} Hz or more; see its driver and light")
        )
    if findings:
        return findings
    reliability = "best effort" if images[0].qos.reliability == BEST_EFFORT else "reliable"
    age = f"{_age(seen, stream) * 1e3:.0f} ms old"
    return [green(about, f"{stream.form} at {stream.rate:.1f} Hz from {images[0].node}, {reliability}, {age}")]


def _quality(seen: Observation, topic: str, images: Sequence[TopicEndpoint]) -> list[Finding]:
    """Find subscribers that request more than the camera offers: they get no messages and no error."""
    findings = []
    for end in seen.subscribers.get(topic, []):
        for image in images:
            if end.type != image.type:
                continue
            compatible, why = qos_check_compatible(image.qos, end.qos)
            if compatible == QoSCompatibility.ERROR:
                words = f"{end.node} hears nothing of {image.node}: {why.strip(' ;')}"
                remedy = (
                    f"subscribe with best effort and volatile; ours: qos_overrides.{topic}.subscription.reliability"
                )
                findings.append(red(f"camera {topic}", words, remedy))
    return findings


def _age(seen: Observation, images: ImageStream) -> float:
    """Return the median age of the images [s], by the clock of the classifier."""
    simulated = any(values.get("use_sim_time") for values in seen.parameters.values())
    return statistics.median(clock if simulated and clock is not None else system for system, clock in images.ages)


def _stamps(seen: Observation, topic: str) -> list[Finding]:
    about, images = f"camera {topic}", seen.images[topic]
    if not images.stamps[-1]:
        return [red(about, "its images have no stamp", "a driver that stamps them: an age of no image is known")]
    if len(images.stamps) > 1 and len(set(images.stamps)) == 1:
        return [red(about, "all its images have the same stamp", "start the camera's driver again: it is frozen")]
    limits = [values["max_frame_age"] for values in seen.parameters.values() if values.get("max_frame_age")]
    limit = max(limits, default=MAX_AGE)
    if abs(age := _age(seen, images)) > limit:
        when = f"{age:.1f} s ago" if age > 0 else f"{-age:.1f} s in the future"
        words = f"its images are stamped {when} (max_frame_age is {limit:g} s), so none is looked at"
        return [red(about, words, "chrony or ntp on both machines; the driver's stamps; use_sim_time on both sides")]
    return []


def velocity(seen: Observation) -> list[Finding]:
    """Check that publishers and subscribers of velocity use the same type."""
    topics = seen.topics(seen.publishers, seen.called("navigator"), TWISTS)
    return [finding for topic in topics or ["/cmd_vel"] for finding in _velocity(seen, topic)]


def _velocity(seen: Observation, topic: str) -> list[Finding]:
    speak, hear = seen.publishers.get(topic, []), seen.subscribers.get(topic, [])
    if not speak:
        return []
    spoken, heard = ({end.type for end in ends} for ends in (speak, hear))
    findings = []
    if len(speak) > 1:
        words = f"{len(speak)} publish it: {', '.join(end.node for end in speak)}; the robot obeys the last message"
        findings.append(yellow(topic, words, "end the others (a joystick, Nav2), or put a twist_mux between"))
    if not hear:
        remedy = "start the robot's base, or remap: cmd_vel_topic:=/your/topic"
        findings.append(yellow(topic, "nobody listens to it", remedy))
    elif not spoken & heard:
        words = f"{', '.join(sorted(spoken))} is published and {', '.join(sorted(heard))} listened to: nothing moves"
        stamped = str(TWISTS[1] in heard).lower()
        findings.append(red(topic, words, f"enable_stamped_cmd_vel: {stamped} at the navigator"))
    return findings or [green(topic, f"{', '.join(sorted(spoken))} from {speak[0].node} to {hear[0].node}")]


def simulated_time(seen: Observation) -> list[Finding]:
    """Check that /clock is published if nodes use it, and that all nodes use the same clock."""
    ours = [node for name in NODES for node in seen.called(name)]
    simulated = [node for node in ours if seen.parameters.get(node, {}).get("use_sim_time")]
    there = seen.publishers.get("/clock", [])
    if simulated and not there:
        words = f"{', '.join(simulated)} has use_sim_time, and nobody publishes /clock: time stands still"
        return [red("time", words, "start the simulation, or use_sim_time:=false")]
    if there and ours and len(simulated) < len(ours):
        words = (
            f"{there[0].node} publishes /clock, and {', '.join(sorted(set(ours) - set(simulated)))} does not go by it"
        )
        return [yellow("time", words, "use_sim_time:=true for all, or none")]
    return []
