"""The simulator behind its topics: images out, commands of either type in, wheels that stop by themselves."""

import math

import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import UInt32

from vlm_perception.navigation.camera_info import field_of_view
from vlm_perception.navigation.depth import DepthReading
from vlm_perception.parameters import ParameterError
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import make_room
from vlm_perception.simulation.world import CAMERA_FORWARD, CAMERA_FOV_Y, CAMERA_HEIGHT, CAMERA_PITCH_DOWN
from vlm_perception.srv import ResetSimulation

SEED = 4


@pytest.fixture
def simulator(ros):
    from vlm_perception.nodes.simulator import Simulator

    return ros.add(
        Simulator(
            parameter_overrides=[Parameter(k, value=v) for k, v in {"seed": SEED, "width": 160, "height": 120}.items()]
        )
    )


def test_depth_comes_with_the_image_when_it_is_wanted(ros):
    from vlm_perception.nodes.simulator import Simulator

    wanted = {"seed": SEED, "width": 160, "height": 120, "depth_rate": 60.0}
    ros.add(Simulator(parameter_overrides=[Parameter(name, value=value) for name, value in wanted.items()]))
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    depths = ros.collect(Image, "camera/depth/image_raw", qos_profile_sensor_data)
    ros.until(lambda: any(depth.header in [p.header for p in images] for depth in depths), "an image with its depth")
    room = make_room(SEED)
    reading = DepthReading(1.312, CAMERA_HEIGHT, CAMERA_PITCH_DOWN)
    points = reading.read_image(depths[-1], 0.0)
    free = min(truth.swath(room, room.start)) - CAMERA_FORWARD
    assert points.free(2.0 * truth.SWATH_HALF_WIDTH, 2.0) == pytest.approx(free, abs=0.15)


@pytest.fixture
def stranger():
    """A node of another participant, as another process has: one participant knows one type per topic."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("stranger", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_camera_info_has_the_intrinsics_of_the_rendered_images(ros, simulator):
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    infos = ros.collect(CameraInfo, "camera/camera_info", qos_profile_sensor_data)
    ros.until(lambda: any(info.header in [image.header for image in images] for info in infos), "info of an image")
    assert (infos[0].width, infos[0].height) == (160, 120)
    assert field_of_view(infos[0]) == pytest.approx(2 * math.atan(math.tan(CAMERA_FOV_Y / 2) * 160 / 120))


def command(message_type: type, linear: float, angular: float):
    message = message_type()
    twist = message.twist if message_type is TwistStamped else message
    twist.linear.x, twist.angular.z = linear, angular
    return message


def test_images_are_stamped_and_whole(ros, simulator):
    images = ros.collect(Image, "camera/image_raw", qos_profile_sensor_data)
    ros.until(lambda: len(images) >= 3, "three images")
    for image in images:
        assert (image.width, image.height, image.encoding, image.step) == (160, 120, "rgb8", 480)
        assert len(image.data) == 160 * 120 * 3
        assert image.header.frame_id == "camera_optical_frame"
    stamps = [image.header.stamp.sec + image.header.stamp.nanosec * 1e-9 for image in images]
    assert stamps == sorted(stamps)
    assert 0 <= simulator.get_clock().now().nanoseconds * 1e-9 - stamps[-1] < 2.0
    assert max(images[-1].data) - min(images[-1].data) > 20  # something to see


@pytest.mark.parametrize("message_type", [Twist, TwistStamped])
def test_commands_move_the_robot_and_silence_stops_it(ros, simulator, stranger, message_type):
    odometry = ros.collect(Odometry, "odom")
    truth = ros.collect(Odometry, "simulator/ground_truth")
    publisher = stranger.create_publisher(message_type, "cmd_vel", 10)

    def turning():
        publisher.publish(command(message_type, 0.0, 1.0))
        return odometry and odometry[-1].twist.twist.angular.z > 0.8

    ros.until(turning, "turning to the left")
    assert odometry[-1].header.frame_id == "odom" and odometry[-1].child_frame_id == "base_link"
    ros.until(lambda: abs(odometry[-1].twist.twist.angular.z) < 0.02, "standing still without commands", 5.0)
    start = make_room(SEED).start
    yaw = 2 * math.atan2(truth[-1].pose.pose.orientation.z, truth[-1].pose.pose.orientation.w)
    assert math.remainder(yaw - start.yaw, math.tau) > 0.1
    assert math.dist((truth[-1].pose.pose.position.x, truth[-1].pose.pose.position.y), (start.x, start.y)) < 0.05


def test_a_command_that_is_no_number_stops_the_wheels(ros, simulator):
    odometry = ros.collect(Odometry, "odom")
    publisher = ros.node.create_publisher(Twist, "cmd_vel", 10)

    def send(angular, condition):
        publisher.publish(command(Twist, 0.0, angular))
        return odometry and condition(odometry[-1].twist.twist.angular.z)

    ros.until(lambda: send(1.0, lambda speed: speed > 0.8), "turning")
    ros.until(lambda: send(math.nan, lambda speed: abs(speed) < 0.02), "standing still")


@pytest.mark.parametrize("kind", ["", "chambers"])
def test_reset_builds_the_room_that_was_asked_for(ros, simulator, kind):
    truth = ros.collect(Odometry, "simulator/ground_truth")
    collisions = ros.collect(UInt32, "simulator/collisions")
    client = ros.node.create_client(ResetSimulation, "simulator/reset")
    ros.until(client.service_is_ready, "the reset service")
    room = make_room(9, kind or "room")
    future = client.call_async(ResetSimulation.Request(seed=9, kind=kind))
    ros.until(future.done, "an answer")
    assert future.result().success
    assert all(thing.name in future.result().message for thing in room.things)
    truth.clear()
    ros.until(lambda: truth and collisions, "the new room")
    position = truth[-1].pose.pose.position
    assert math.dist((position.x, position.y), (room.start.x, room.start.y)) < 0.05
    assert collisions[-1].data == 0


def test_a_kind_that_there_is_not_leaves_the_room_as_it_is(ros, simulator):
    client = ros.node.create_client(ResetSimulation, "simulator/reset")
    ros.until(client.service_is_ready, "the reset service")
    future = client.call_async(ResetSimulation.Request(seed=9, kind="maze"))
    ros.until(future.done, "an answer")
    assert not future.result().success
    assert future.result().message == "the kind of room is 'maze', expected one of room, chambers"


def test_a_parameter_out_of_its_range_is_named(ros):
    from vlm_perception.nodes.simulator import Simulator

    with pytest.raises(ParameterError, match="width.*7"):
        Simulator(parameter_overrides=[Parameter("width", value=7)])
