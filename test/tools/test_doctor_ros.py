"""What the doctor finds about running nodes, over real DDS."""

from __future__ import annotations

import threading

import pytest
from findings import GREEN, RED, YELLOW, says

pytest.importorskip("rclpy")
import contextlib

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vlm_perception.nodes.diagnostics import Diagnostics, Health, Level
from vlm_perception.tools.checks import graph
from vlm_perception.tools.checks import seen as observing
from vlm_perception.tools.checks.seen import ImageStream, Observation, Observer, TopicEndpoint, look

pytestmark = pytest.mark.ros


# Real nodes


class Robot:
    """Nodes that spin in a thread, in a ROS context of their own, as other processes would have it."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def _spin(self) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            self.executor.spin()

    def node(self, name: str, **parameters: object):
        values = [Parameter(key, value=value) for key, value in parameters.items()]
        node = rclpy.create_node(name, context=self.context, parameter_overrides=values)
        for value in values:
            if not node.has_parameter(value.name):
                node.declare_parameter(value.name, value.value)
        self.executor.add_node(node)
        return node

    def camera(self, name: str, topic: str, qos=qos_profile_sensor_data, behind: float = 0.0, encoding: str = "rgb8"):
        """A camera at 20 Hz whose stamps are `behind` [s]; `behind` of inf is no stamp."""
        node = self.node(name)
        publisher = node.create_publisher(Image, topic, qos)

        def shoot() -> None:
            image = Image(height=24, width=32, step=96, encoding=encoding, data=bytes(24 * 96))
            if behind < float("inf"):
                stamp = node.get_clock().now().nanoseconds - round(behind * 1e9)
                image.header.stamp.sec, image.header.stamp.nanosec = divmod(stamp, 10**9)
            publisher.publish(image)

        node.create_timer(0.05, shoot)
        return node

    def __enter__(self) -> Robot:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        nodes = self.executor.get_nodes()
        self.executor.shutdown()
        self._thread.join()
        for node in nodes:
            self.executor.remove_node(node)
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(autouse=True)
def free_cores(monkeypatch):
    """What other tests take of this machine does not prolong the observations."""
    monkeypatch.setattr(observing.os, "getloadavg", lambda: (0.0, 0.0, 0.0))


RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
SECONDS = 1.0


def ignore(message) -> None:
    pass


def test_a_robot_in_order(empty_domain, ros):
    robot = Robot()
    robot.camera("camera", "camera/image_raw")
    classifier = robot.node("classifier", max_frame_age=2.0)
    classifier.create_subscription(Image, "camera/image_raw", ignore, qos_profile_sensor_data)
    navigator = robot.node("navigator")
    navigator.create_publisher(TwistStamped, "cmd_vel", 1)
    robot.node("base").create_subscription(TwistStamped, "cmd_vel", ignore, 1)
    for node in (classifier, navigator):
        Diagnostics(node, lambda: Health(Level.OK, "looking"))
    with robot:
        there = {"camera", "classifier", "navigator", "base"}
        ros.until(lambda: there <= set(ros.node.get_node_names()), "nodes in the graph")
        seen = look(SECONDS, [])
    assert seen.parameters["/classifier"] == {"use_sim_time": False, "max_frame_age": 2.0}
    assert says(
        graph.nodes(seen), (GREEN, "classifier: /classifier: looking"), (GREEN, "navigator: /navigator: looking")
    )
    assert says(
        graph.cameras(seen), (GREEN, r"/camera/image_raw: 32x24 rgb8 at \d+\.\d Hz from /camera, best effort, \d+ ms")
    )
    assert says(graph.velocity(seen), (GREEN, "/cmd_vel: geometry_msgs/msg/TwistStamped from /navigator to /base"))
    assert graph.simulated_time(seen) == []


def test_a_robot_in_disorder(ros):
    robot, base = Robot(), Robot()
    robot.camera("front", "front/image")
    classifier = robot.node("classifier", use_sim_time=True)
    classifier.create_subscription(Image, "front/image", ignore, RELIABLE)
    classifier.create_subscription(Image, "rear/image", ignore, RELIABLE)
    robot.camera("rear", "rear/image", RELIABLE, behind=30.0)
    robot.camera("twin", "rear/image", RELIABLE, behind=30.0)
    robot.camera("strange", "strange/image", encoding="x8")
    robot.camera("timeless", "timeless/image", behind=float("inf"))
    robot.node("silent").create_publisher(Image, "silent/image", 1)
    robot.node("words").create_publisher(String, "words", 1)
    navigator = robot.node("navigator")
    navigator.create_publisher(Twist, "cmd_vel", 1)
    robot.node("joystick").create_publisher(Twist, "cmd_vel", 1)
    Diagnostics(navigator, lambda: Health(Level.ERROR, "nobody listens"))
    base.node("base").create_subscription(TwistStamped, "cmd_vel", ignore, 1)
    topics = ["front/image", "rear/image", "strange/image", "timeless/image", "silent/image", "words", "nobody"]
    with robot, base:
        listened = look(0.5, []).images.keys()
        seen = look(SECONDS, topics)
    assert listened == {"/front/image", "/rear/image"}
    assert says(
        graph.nodes(seen),
        (RED, "/classifier says nothing on /diagnostics"),
        (RED, "/navigator: nobody listens -> as it says"),
    )
    assert says(
        graph.cameras(seen),
        (RED, "/front/image: /classifier hears nothing of /front: .*reliab.* -> subscribe with best effort"),
        (YELLOW, "/rear/image: 2 publish it: /(rear|twin), /(rear|twin)"),
        (RED, r"/rear/image: its images are stamped 3\d\.\d s ago \(max_frame_age is 1 s\).* -> chrony"),
        (RED, "/strange/image: encoding 'x8' is not known.* -> set the driver to another encoding"),
        (RED, "/timeless/image: its images have no stamp"),
        (RED, "/silent/image: /silent publishes it and nothing came"),
        (RED, "/words: it is a std_msgs/msg/String, expected sensor_msgs"),
        (RED, r"/nobody: nobody publishes it -> image_topic:=/front/image \(ros2 launch; there are /front/image, "),
    )
    assert says(
        graph.velocity(seen),
        (YELLOW, "/cmd_vel: 2 publish it: .*twist_mux"),
        (RED, "Twist is published and .*TwistStamped listened to.* -> enable_stamped_cmd_vel: true"),
    )
    assert says(graph.simulated_time(seen), (RED, "/classifier has use_sim_time, and nobody publishes /clock"))


def test_images_that_are_compressed_and_a_time_that_is_simulated(ros):
    robot = Robot()
    simulation = robot.node("simulation")
    clock = simulation.create_publisher(Clock, "/clock", 1)
    images = simulation.create_publisher(CompressedImage, "camera/image_raw/compressed", 1)
    ticks = iter(range(1, 10_000))

    def tick() -> None:
        seconds = next(ticks)
        now = Clock()
        now.clock.sec = 100 + seconds
        clock.publish(now)
        broken = CompressedImage(format="jpeg", data=b"\xff\xd8 and no more")
        broken.header.stamp.sec = 100 + seconds
        images.publish(broken)

    simulation.create_timer(0.05, tick)
    robot.node("navigator", use_sim_time=False)
    classifier = robot.node("classifier", use_sim_time=True)
    classifier.create_subscription(CompressedImage, "camera/image_raw/compressed", ignore, 1)
    with robot:
        seen = look(SECONDS, [])
    assert says(graph.cameras(seen), (RED, "compressed: the compressed image .* cannot be decoded"))
    seen.images["/camera/image_raw/compressed"].problem = ""
    assert says(graph.cameras(seen), (GREEN, "jpeg at .* reliable"))
    assert says(graph.simulated_time(seen), (YELLOW, "/simulation publishes /clock, and /navigator does not go by it"))


def test_a_camera_that_is_known_late_is_waited_for(ros):
    """On a busy machine it is there only when the doctor listens already."""
    robot = Robot()
    classifier = robot.node("classifier", max_frame_age=2.0)
    classifier.create_subscription(Image, "front/image", ignore, qos_profile_sensor_data)
    with robot:
        late = threading.Timer(3.0, robot.camera, ["front", "front/image"])
        late.start()
        seen = look(SECONDS, [])
        late.join()
    assert says(graph.cameras(seen), (GREEN, "/front/image: 32x24 rgb8 at"))


def test_a_busy_machine_gets_more_time_to_discover_nodes(monkeypatch, ros):
    observer = Observer()
    observer.find()
    later = observing.time.monotonic() + 1.5 * observing.SETTLED
    for load, settled in ((0.0, True), (1.2, True), (3.0, False)):
        with monkeypatch.context() as patch:
            patch.setattr(observing.os, "getloadavg", lambda load=load: (load * observing.os.cpu_count(), 0.0, 0.0))
            patch.setattr(observing.time, "monotonic", lambda: later)
            assert observer.settled is settled, load
    observer.close()


def test_a_node_that_tells_its_health_and_is_not_in_the_graph_yet_is_waited_for(ros):
    observer = Observer()
    assert not observer.misses_something()
    observer.seen.health["/robot1/navigator"] = DiagnosticStatus()
    assert observer.misses_something()
    observer.close()


# What is seen, judged


def test_what_a_classifier_draws_and_depth_are_no_cameras_to_recommend():
    image = "sensor_msgs/msg/Image"
    publishers = {
        "/classifier/annotated_image": [TopicEndpoint("/classifier", image, RELIABLE)],
        "/camera/depth/image_raw": [TopicEndpoint("/camera", image, RELIABLE)],
    }
    seen = Observation(nodes=["/classifier"], publishers=publishers, images={"/camera/image_raw": ImageStream()})
    assert says(graph.cameras(seen), (RED, "nobody publishes it -> start a camera$"))


def test_nobody_is_there():
    assert says(graph.nodes(Observation()), (YELLOW, "no node is there.*same ROS_DOMAIN_ID"))
    assert says(
        graph.cameras(Observation(images={"/a": ImageStream()})), (YELLOW, "nobody publishes it -> start a camera")
    )
    assert graph.velocity(Observation()) == []


def test_nodes_that_do_not_run_and_two_of_one_name():
    healthy = DiagnosticStatus(level=DiagnosticStatus.WARN, message="slow")
    seen = Observation(nodes=["/a/classifier", "/a/classifier"], health={"/a/classifier": healthy})
    assert says(
        graph.nodes(seen),
        (RED, "2 nodes are called /a/classifier"),
        (YELLOW, "/a/classifier: slow"),
        (YELLOW, "navigator: does not run -> ros2 launch"),
    )


def camera(**changes) -> Observation:
    """20 images at 10 Hz, 0.1 s old, all of which came; but for the `changes`."""
    values = {
        "stamps": list(range(20)),
        "arrivals": [n / 10 for n in range(20)],
        "ages": [(0.1, None)] * 20,
        "numbers": list(range(1, 21)),
        "form": "640x480 rgb8",
    }
    ends = [TopicEndpoint("/camera", "sensor_msgs/msg/Image", qos_profile_sensor_data)]
    return Observation(publishers={"/camera": ends}, images={"/camera": ImageStream(**{**values, **changes})})


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, GREEN, "640x480 rgb8 at 10.0 Hz from /camera, best effort, 100 ms old"),
        ({"numbers": list(range(1, 60, 3))}, YELLOW, "66% of 640x480 rgb8 were lost on the way, 10.0 Hz came"),
        ({"numbers": []}, GREEN, "10.0 Hz"),
        ({"arrivals": [n / 2 for n in range(20)]}, YELLOW, "2.0 Hz, which makes every answer late"),
        ({"stamps": [7] * 20}, RED, "all its images have the same stamp"),
        ({"ages": [(-3.0, None)] * 20}, RED, "3.0 s in the future"),
        ({"ages": [(9e8, 0.2)] * 20}, RED, "stamped 900000000.0 s ago"),
    ],
)
def test_a_camera_is_judged_by_what_came(changes, level, words):
    assert says(graph.cameras(camera(**changes)), (level, words))


def test_a_camera_that_gives_nothing_is_asked_why():
    seen = camera(arrivals=[])
    assert says(graph.cameras(seen), (RED, "/camera publishes it and nothing came -> look whether the camera delivers"))
    seen.health["/camera"] = DiagnosticStatus(level=DiagnosticStatus.ERROR, message="cannot open /dev/video9")
    assert says(graph.cameras(seen), (RED, "nothing came: cannot open /dev/video9 -> as it says"))


def test_stamps_are_judged_by_the_clock_of_the_classifier():
    seen = camera(ages=[(9e8, 0.2)] * 20)
    seen.parameters["/classifier"] = {"use_sim_time": True, "max_frame_age": 1.0}
    assert says(graph.cameras(seen), (GREEN, "200 ms old"))


def test_commands_that_nobody_hears():
    twist = TopicEndpoint("/navigator", "geometry_msgs/msg/Twist", RELIABLE)
    seen = Observation(nodes=["/navigator"], publishers={"/base/cmd_vel": [twist]})
    assert says(graph.velocity(seen), (YELLOW, "/base/cmd_vel: nobody listens to it -> start the robot's base"))
