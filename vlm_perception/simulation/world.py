"""The room as a MuJoCo world: physics of a differential-drive robot, its camera, its odometry, its collisions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np

from vlm_perception.simulation.floor_plan import WALL_THICKNESS, Doorway, Slab, without
from vlm_perception.simulation.room import (
    DOOR_HEIGHT,
    PATTERNS,
    ROBOT_RADIUS,
    WALL_HEIGHT,
    Lamp,
    RobotPose,
    Room,
)

os.environ.setdefault("MUJOCO_GL", "egl")  # before the first import of mujoco, or it looks for a window
try:
    import mujoco
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the simulator needs MuJoCo: pip install mujoco, or this package with its extra [simulation]", name="mujoco"
    ) from error
except Exception as error:  # a MUJOCO_GL that it does not know, or whose library is not there
    mujoco, _broken = None, error

CAMERA_FOV_Y = math.radians(60.0)
CAMERA_HEIGHT = 0.30
CAMERA_FORWARD = 0.10
CAMERA_PITCH_DOWN = 0.12
WHEEL_RADIUS = 0.05
WHEEL_TRACK = 0.28
MAX_SPEED = 0.7  # [m/s], as of a Kobuki, which is as large
MAX_TURN = 3.1  # [rad/s]
MAX_ACCELERATION = 1.5  # [m/s^2]
MAX_TURN_ACCELERATION = 6.0  # [rad/s^2]
TIMESTEP = 0.004  # [s]
CEILING_GROUP = 3  # hidden from above
FRAME_WIDTH = 0.06  # of a doorway's frame [m]


def _cannot_render(error: Exception) -> OSError:
    why = " ".join(str(error).split())
    return OSError(
        f"cannot render with MUJOCO_GL={os.environ['MUJOCO_GL']} ({why:.200}): set egl, the default, or osmesa; on "
        "Debian or Ubuntu, apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri for egl, libosmesa6 for osmesa"
    )


class World:
    """One room, one robot. Create, use and close it in one thread (EGL contexts belong to their thread)."""

    def __init__(self, room: Room, width: int = 640, height: int = 480, samples: int = 4):
        if mujoco is None:
            raise _cannot_render(_broken)
        self.room = room
        self._model = mujoco.MjModel.from_xml_string(_mjcf(room, width, height, samples))
        self._data = mujoco.MjData(self._model)
        self._size = (height, width)
        self._options = {"camera": mujoco.MjvOption(), "above": mujoco.MjvOption()}
        self._options["camera"].geomgroup[CEILING_GROUP] = 1
        self._renderer: mujoco.Renderer | None = None
        name = mujoco.mj_id2name
        geoms = [name(self._model, mujoco.mjtObj.mjOBJ_GEOM, i) or "" for i in range(self._model.ngeom)]
        self._thing_of_geom = np.full(self._model.ngeom + 1, -1, dtype=np.int32)  # the last is for "no geom"
        for i, geom in enumerate(geoms):
            if geom.startswith("thing_"):
                self._thing_of_geom[i] = int(geom.removeprefix("thing_"))
        self._body_geoms = {i for i, geom in enumerate(geoms) if geom == "chassis"}
        self._command = (0.0, 0.0)
        self._speed = (0.0, 0.0)
        self._touching = False
        self.collisions = 0
        self.odometry = RobotPose(0.0, 0.0, 0.0)  # by the wheels, since it was placed
        self.place(room.start)

    @property
    def time(self) -> float:
        """Simulated time [s]."""
        return self._data.time

    @property
    def pose(self) -> RobotPose:
        """The true pose of the robot's centre in the room."""
        w, x, y, z = self._data.qpos[3:7]
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return RobotPose(float(self._data.qpos[0]), float(self._data.qpos[1]), yaw)

    @property
    def speed(self) -> tuple[float, float]:
        """Forward speed [m/s] and turning speed [rad/s] by the wheels."""
        left, right = (float(v) * WHEEL_RADIUS for v in self._data.qvel[6:8])
        return (left + right) / 2, (right - left) / WHEEL_TRACK

    @property
    def field_of_view(self) -> float:
        """Vertical field of view of the robot's camera [rad]."""
        return math.radians(float(self._model.camera("camera").fovy[0]))

    def place(self, pose: RobotPose) -> None:
        """Place the robot at rest at `pose`."""
        mujoco.mj_resetData(self._model, self._data)
        self.odometry = RobotPose(0.0, 0.0, 0.0)
        self._data.qpos[:3] = pose.x, pose.y, 0.0
        self._data.qpos[3:7] = math.cos(pose.yaw / 2), 0.0, 0.0, math.sin(pose.yaw / 2)
        self._command = self._speed = (0.0, 0.0)
        mujoco.mj_forward(self._model, self._data)

    def drive(self, linear: float, angular: float) -> None:
        """Request a forward speed [m/s] and a turning speed [rad/s]. The base limits speed and acceleration."""
        if not (math.isfinite(linear) and math.isfinite(angular)):
            raise ValueError(f"command ({linear}, {angular}) is not finite")
        self._command = (max(-MAX_SPEED, min(MAX_SPEED, linear)), max(-MAX_TURN, min(MAX_TURN, angular)))

    def step(self, seconds: float) -> None:
        """Advance the physics by `seconds`. Count a collision when the body begins to touch something."""
        for _ in range(max(1, round(seconds / TIMESTEP))):
            linear = _towards(self._speed[0], self._command[0], MAX_ACCELERATION * TIMESTEP)
            angular = _towards(self._speed[1], self._command[1], MAX_TURN_ACCELERATION * TIMESTEP)
            self._speed = (linear, angular)
            half = angular * WHEEL_TRACK / 2
            self._data.ctrl[:] = (linear - half) / WHEEL_RADIUS, (linear + half) / WHEEL_RADIUS
            mujoco.mj_step(self._model, self._data)
            self._count_collisions()
            self._integrate_odometry()

    def _count_collisions(self) -> None:
        contacts = self._data.contact
        touching = any(
            (int(a) in self._body_geoms or int(b) in self._body_geoms) for a, b in contacts.geom[: self._data.ncon]
        )
        if touching and not self._touching:
            self.collisions += 1
        self._touching = touching

    def _integrate_odometry(self) -> None:
        linear, angular = self.speed
        yaw = self.odometry.yaw + angular * TIMESTEP / 2
        self.odometry = RobotPose(
            self.odometry.x + linear * math.cos(yaw) * TIMESTEP,
            self.odometry.y + linear * math.sin(yaw) * TIMESTEP,
            math.remainder(self.odometry.yaw + angular * TIMESTEP, math.tau),
        )

    def image(self, camera: str = "camera") -> np.ndarray:
        """Render the image of `camera` ("camera" or "above"): RGB uint8, shape (height, width, 3)."""
        renderer = self._get_renderer()
        renderer.update_scene(self._data, camera=camera, scene_option=self._options[camera])
        return renderer.render()

    def pixel_from_above(self, x: float, y: float) -> tuple[float, float]:
        """Return column and row of a point on the floor [m] in the image of the camera "above"."""
        height, width = self._size
        camera = self._model.camera("above")
        scale = height / 2 / math.tan(math.radians(float(camera.fovy[0])) / 2) / camera.pos[2]
        return width / 2 + (x - camera.pos[0]) * scale, height / 2 - (y - camera.pos[1]) * scale

    def segmentation(self) -> np.ndarray:
        """Render the object of each pixel: int32, shape (height, width), an index into `room.things` or -1."""
        renderer = self._get_renderer()
        renderer.enable_segmentation_rendering()
        renderer.update_scene(self._data, camera="camera", scene_option=self._options["camera"])
        ids = renderer.render()[:, :, 0]
        renderer.disable_segmentation_rendering()
        return self._thing_of_geom[ids]

    def depth(self) -> np.ndarray:
        """Render the depth along the optical axis [m]: float32, shape (height, width)."""
        renderer = self._get_renderer()
        renderer.enable_depth_rendering()
        renderer.update_scene(self._data, camera="camera", scene_option=self._options["camera"])
        depth = renderer.render()
        renderer.disable_depth_rendering()
        return depth

    def _get_renderer(self) -> mujoco.Renderer:
        if self._renderer is None:
            try:
                self._renderer = mujoco.Renderer(self._model, *self._size)
            except Exception as error:
                raise _cannot_render(error) from error
        return self._renderer

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _towards(now: float, wanted: float, most: float) -> float:
    return now + max(-most, min(most, wanted - now))


def _rgb(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values[:3])


def _box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], material: str, group: int = 0) -> str:
    middle = " ".join(f"{(low + high) / 2:.4f}" for low, high in (x, y, z))
    half = " ".join(f"{(high - low) / 2:.4f}" for low, high in (x, y, z))
    return f'<geom group="{group}" type="box" material="{material}" pos="{middle}" size="{half}"/>'


def _slab(slab: Slab, doorways: Sequence[Doorway], lintel_group: int) -> Iterator[str]:
    """Yield the boxes of a slab: the parts beside its doorways, and the lintels above them."""
    here, x, y, full = slab.floor, (slab.floor.x0, slab.floor.x1), (slab.floor.y0, slab.floor.y1), (0.0, WALL_HEIGHT)
    holes = [doorway for doorway in doorways if doorway.floor.overlaps(here)]
    lintel = DOOR_HEIGHT, WALL_HEIGHT
    if any(hole.along == "y" for hole in holes):
        spans = [(hole.floor.x0, hole.floor.x1) for hole in holes]
        yield from (_box(part, y, full, slab.paint) for part in reversed(without(x, spans)))
        yield from (_box(span, y, lintel, slab.paint, lintel_group) for span in spans)
    else:
        spans = [(hole.floor.y0, hole.floor.y1) for hole in holes]
        yield from (_box(x, part, full, slab.paint) for part in reversed(without(y, spans)))
        yield from (_box(x, span, lintel, slab.paint, lintel_group) for span in spans)


def _frame(doorway: Doorway, lintel_group: int) -> Iterator[str]:
    """Yield the boxes of a doorway's frame: its posts, and its head below the lintel."""
    x, y, top = (doorway.floor.x0, doorway.floor.x1), (doorway.floor.y0, doorway.floor.y1), DOOR_HEIGHT + FRAME_WIDTH
    (start, end), (low, high) = (x, y) if doorway.along == "x" else (y, x)
    for span, z, group in (
        ((high - 0.005, high + FRAME_WIDTH), (0.0, top), 0),
        ((low - FRAME_WIDTH, low + 0.005), (0.0, top), 0),
        ((low, high), (DOOR_HEIGHT, top), lintel_group),
    ):
        sides = (start - 0.01, end + 0.01), span
        yield _box(*(sides if doorway.along == "x" else sides[::-1]), z, "frame", group)


def _materials(room: Room) -> Iterator[str]:
    """Yield the textures and materials of the walls."""
    looks = room.looks
    for paint in dict.fromkeys(slab.paint for slab in room.plan.slabs):
        if f"{paint}_pattern" not in looks:
            yield f'<material name="{paint}" rgba="{_rgb(looks[paint])} 1" specular="0"/>'
            continue
        pattern = PATTERNS[int(looks[f"{paint}_pattern"][0])]
        second = looks[f"{paint}_2"] if pattern == "gradient" else tuple(0.88 * v for v in looks[paint])
        yield f"""<texture name="{paint}" type="2d" builtin="{pattern}" width="128" height="128"
      rgb1="{_rgb(looks[paint])}" rgb2="{_rgb(second)}"/>
    <material name="{paint}" texture="{paint}" texuniform="{str(pattern == "checker").lower()}" specular="0"/>"""


def _light(lamp: Lamp) -> str:
    return f"""<light pos="{lamp.x:.3f} {lamp.y:.3f} 2.2" dir="0 0 -1" cutoff="120" castshadow="false"
      diffuse="{_rgb(lamp.colour)}" specular="{_rgb([lamp.highlight] * 3)}" attenuation="1 0 {lamp.reach**-2:.4f}"/>"""


def _mjcf(room: Room, width: int, height: int, samples: int) -> str:
    looks, plan, bounds = room.looks, room.plan, room.plan.bounds
    # From above, inner walls hide what is behind them, and lintels hide doorways: seen from afar and without them.
    half_angle, lintel_group = (0.5, 0) if len(plan.chambers) == 1 else (0.12, CEILING_GROUP)
    geoms = [box for slab in plan.slabs for box in _slab(slab, plan.doorways, lintel_group)]
    geoms += [box for doorway in plan.doorways for box in _frame(doorway, lintel_group)]
    t = WALL_THICKNESS
    ceiling = (bounds.x0 - t, bounds.x1 + t), (bounds.y0 - t - 2, bounds.y1 + t + 2)
    geoms.append(_box(*ceiling, (WALL_HEIGHT, WALL_HEIGHT + 0.05), "ceiling", CEILING_GROUP))
    for index, thing in enumerate(room.things):
        z = thing.height / 2
        size = {
            "ball": f"{thing.radius:.4f}",
            "box": f"{thing.radius:.4f} {thing.radius:.4f} {z:.4f}",
            "cylinder": f"{thing.radius:.4f} {z:.4f}",
        }[thing.shape]
        kind = {"ball": "sphere"}.get(thing.shape, thing.shape)
        geoms.append(
            f'<geom name="thing_{index}" type="{kind}" size="{size}" pos="{thing.x:.4f} {thing.y:.4f} {z:.4f}" '
            f'euler="0 0 {thing.yaw:.4f}" rgba="{_rgb(thing.rgb)} 1" material="thing"/>'
        )
    pitch = CAMERA_PITCH_DOWN
    above = max((bounds.y1 - bounds.y0) / 2, (bounds.x1 - bounds.x0 + 1) / 2 * height / width) + 0.4
    x, y = (bounds.x0 + bounds.x1) / 2, (bounds.y0 + bounds.y1) / 2
    seen = above + 0.55 * WALL_HEIGHT  # half of the height [m] of floor that is seen from above
    scale = round(looks["floor_scale"][0], 3)

    def floor(seen: float) -> float:
        """Return half of the floor's length [m].

        The floor is drawn in cells of 0.1 m, and each costs time, so it is no larger than the visible part. It is cut
        by whole repeats of its pattern, which begins at the corner of a floor of 40 m.
        """
        return 20.0 - 2 * math.floor((20.0 - seen) * scale / 2) / scale

    return f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <headlight ambient="{_rgb(looks["ambient"])}" diffuse="0.15 0.15 0.15" specular="0 0 0"/>
    <quality offsamples="{samples}" shadowsize="0"/>
    <global offwidth="{width}" offheight="{height}"/>
    <map znear="0.005" zfar="10"/>
  </visual>
  <statistic extent="6" center="0 0 1"/>
  <asset>
    <texture name="floor" type="2d" builtin="checker" rgb1="{_rgb(looks["floor"])}" rgb2="{_rgb(looks["floor_2"])}"
      width="128" height="128"/>
    <material name="floor" texture="floor" texrepeat="{scale} {scale}"
      texuniform="true" specular="0.1"/>
    {"".join(_materials(room))}
    <material name="frame" rgba="{_rgb(looks["frame"])} 1" specular="0.1"/>
    <material name="ceiling" rgba="{_rgb(looks["ceiling"])} 1" specular="0"/>
    <material name="thing" specular="0.3" shininess="0.4"/>
  </asset>
  <worldbody>
    {"".join(map(_light, room.lamps))}
    <geom name="floor" type="plane" size="{floor(abs(x) + seen * width / height):.6f} {floor(abs(y) + seen):.6f} 0.1"
      material="floor"/>
    {"".join(geoms)}
    <camera name="above" pos="{x:.3f} {y:.3f} {WALL_HEIGHT - 0.02 + above / math.tan(half_angle):.3f}"
      fovy="{114.6 * half_angle}" xyaxes="1 0 0 0 1 0"/>
    <body name="robot">
      <freejoint/>
      <geom name="chassis" type="cylinder" size="{ROBOT_RADIUS} 0.07" pos="0 0 0.13" mass="6" rgba="0.2 0.2 0.22 1"/>
      <geom name="mast" type="cylinder" size="0.015 0.05" pos="{CAMERA_FORWARD - 0.03} 0 0.25" mass="0.1"
        contype="0" conaffinity="0" rgba="0.2 0.2 0.22 1"/>
      <camera name="camera" pos="{CAMERA_FORWARD} 0 {CAMERA_HEIGHT}" fovy="{math.degrees(CAMERA_FOV_Y)}"
        xyaxes="0 -1 0 {math.sin(pitch):.6f} 0 {math.cos(pitch):.6f}"/>
      <geom name="caster_front" type="sphere" size="0.02" pos="0.12 0 0.021" mass="0.2" condim="1" priority="1"/>
      <geom name="caster_back" type="sphere" size="0.02" pos="-0.12 0 0.021" mass="0.2" condim="1" priority="1"/>
      <body name="wheel_left" pos="0 {WHEEL_TRACK / 2} {WHEEL_RADIUS}">
        <joint name="wheel_left" type="hinge" axis="0 1 0" damping="0.01" armature="0.02"/>
        <geom name="tyre_left" type="cylinder" size="{WHEEL_RADIUS} 0.015" euler="1.5708 0 0" mass="0.4"
          friction="1.2 0.01 0.001"/>
      </body>
      <body name="wheel_right" pos="0 {-WHEEL_TRACK / 2} {WHEEL_RADIUS}">
        <joint name="wheel_right" type="hinge" axis="0 1 0" damping="0.01" armature="0.02"/>
        <geom name="tyre_right" type="cylinder" size="{WHEEL_RADIUS} 0.015" euler="1.5708 0 0" mass="0.4"
          friction="1.2 0.01 0.001"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="wheel_left" kv="5" forcerange="-10 10"/>
    <velocity joint="wheel_right" kv="5" forcerange="-10 10"/>
  </actuator>
</mujoco>"""
