"""The node `classifier`: makes of images a smoothed label, a description and answers to typed questions.

The executor's thread only stores messages, takes questions and publishes diagnostics. One worker thread owns the model:
it loads the model, warms it up, decodes images and answers questions. Each camera has its `CameraTopics`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile

from vlm_perception.address import models_shown
from vlm_perception.models import memory
from vlm_perception.models.base import Model
from vlm_perception.models.loader import load_first
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.remote.endpoint import is_address
from vlm_perception.models.scope import Scope
from vlm_perception.msg import ModelScope
from vlm_perception.nodes.ask_service import AskService, in_executor
from vlm_perception.nodes.camera_topics import CameraTopics, names_of_cameras
from vlm_perception.nodes.classifier_parameters import Parameters
from vlm_perception.nodes.diagnostics import Diagnostics, Health, Level
from vlm_perception.nodes.faults import Faults, one_line
from vlm_perception.nodes.parameters import ParameterTable
from vlm_perception.nodes.run import run
from vlm_perception.nodes.services import guarded
from vlm_perception.parameters import ParameterError
from vlm_perception.perception.outputs import Description, Failed, Fault, Label, Loaded, NotAnsweredError, Output, Reply
from vlm_perception.perception.trace import Trace
from vlm_perception.perception.worker import Worker
from vlm_perception.questions import Question

WATCH_PERIOD = 0.1
"""Time between two checks for time-outs [s]."""


def addresses(models: str) -> set[str]:
    """Return the addresses of servers in a list of models."""
    return {name for name in models.replace(",", " ").split() if is_address(name)}


Load = Callable[[str, LoadOptions, Callable[[str], None]], Model]
"""The type of `loader.load_first`."""


def load_beside_others(models: str, options: LoadOptions, passed_over: Callable[[str], None]) -> Model:
    """Call `load_first` with half of the cores for the model. Threads that wait for a busy core would slow it down."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    return load_first(models, options, passed_over)


class Classifier(LifecycleNode):
    """The node. `load` loads the model."""

    def __init__(self, load: Load = load_beside_others, **node_arguments: Any) -> None:
        super().__init__("classifier", **node_arguments)
        self._load = load
        self._worker: Worker | None = None
        self._table = ParameterTable(self, Parameters, self._change, lambda: self._worker is not None)
        self._addresses = addresses(self._table.values.model)
        self._last_worker: Worker | None = None
        self._trace: Trace | None = None
        self._active = False
        self._load_error: str | None = None
        self._passed_over: list[str] = []
        self._faults = Faults(self.get_logger())
        self._hung_since: float | None = None
        self._cameras = self._make_cameras(self._table.values)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._scopes = self.create_publisher(ModelScope, "model_scope", latched)
        failed = partial(self._faults.add, "internal")
        self._asks = AskService(
            self,
            self._ask,
            lambda camera, questions: self._out_of_scope(self._camera(camera), questions),
            lambda: self._table.values,
            self._longest_wait,
            failed,
        )
        self.create_timer(WATCH_PERIOD, guarded(self._watch, failed), clock=Clock(clock_type=ClockType.STEADY_TIME))
        several = self._cameras.values() if len(self._cameras) > 1 else ()
        Diagnostics(self, self._health, {topics.name: partial(self._camera_health, topics) for topics in several})

    def _make_cameras(self, values: Parameters) -> dict[str, CameraTopics]:
        topics = values.camera_topics
        resolved = [self.resolve_topic_name(topic) for topic in topics]
        if repeated := {topic for topic in resolved if resolved.count(topic) > 1}:
            raise ParameterError(
                f"camera_topics {list(topics)} are not all different: after remapping, more than one of them is "
                f"{', '.join(sorted(repeated))}"
            )
        compressed = values.image_transport == "compressed"
        return {
            camera: CameraTopics(self, camera, topic, compressed, len(topics) > 1)
            for camera, topic in zip(names_of_cameras(topics), topics, strict=True)
        }

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to load the model. `ask` and the diagnostics tell when it is ready."""
        values = self._table.values
        self._load_error, self._passed_over = None, []
        try:
            self._trace = Trace(Path(values.trace_file)) if values.trace_file else None
        except OSError as error:
            self._load_error = (
                f"trace_file {values.trace_file!r} cannot be written: {error}; choose another at the start"
            )
            self.get_logger().error(self._load_error)
            return TransitionCallbackReturn.FAILURE
        settings = values.perception
        self._worker = worker = Worker(
            lambda: self._load(values.model, values.load_options(), self._pass_over),
            settings,
            [topics.make_camera(settings, self._trace) for topics in self._cameras.values()],
            lambda output: self._publish(worker, output),
            self._last_worker,
        )
        self._worker.start()
        self.get_logger().info(f"loading model {self._model_name!r}")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._worker is not None, "a node is configured before it is active"
        self._active = True
        self._worker.look(True)
        self._listen()
        return super().on_activate(state)

    def _listen(self) -> None:
        """Subscribe to the cameras once the model is ready, since a recording starts with its first subscriber."""
        if self._active and self._worker and self._worker.state == "ready":
            for topics in self._cameras.values():
                topics.open(self._worker.wake)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._go_quiet()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._free_model()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._go_quiet()
        self._free_model()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything after a failed transition, so that the node can be configured again."""
        self._go_quiet()
        self._free_model()
        self._load_error = f"the transition from {state.label} failed"
        return super().on_error(state)

    def close(self) -> None:
        """End the worker, without waiting for a model that is being loaded."""
        self._go_quiet()
        self._free_model()
        if self._last_worker:
            self._last_worker.join(timeout=1.0)

    def _go_quiet(self) -> None:
        self._active = False
        if self._worker:
            self._worker.look(False)
        for topics in self._cameras.values():
            topics.close()

    def _free_model(self) -> None:
        if self._worker:
            self._worker.stop()
            self._last_worker, self._worker = self._worker, None
        if self._trace:
            self._trace.close()

    def _change(self, values: Parameters) -> None:
        strange = sorted(addresses(values.model) - self._addresses)
        if strange and not self._table.values.allow_remote_model:
            raise ValueError(
                f"model names the server {models_shown(strange[0])!r:.200}, to which the camera's images would "
                "go: give it at start, or set allow_remote_model at start if anybody on the ROS network may choose one"
            )
        if self._worker:
            if problem := values.perception.unknown(self._worker.scope):
                raise ValueError(problem)
            self._worker.change(values.perception)

    # Questions

    def _ask(self, camera: str, questions: Sequence[Question], newer_than: int) -> concurrent.futures.Future[Reply]:
        """Ask about the newest frame of `camera`. Raises NotAnsweredError or ValueError if that is not possible now."""
        topics = self._camera(camera)
        if reason := self._not_ready() or self._refused_qos(topics):
            raise NotAnsweredError(reason)
        assert self._worker is not None and topics.camera is not None, "made when the node is configured"
        self._refuse_unknown_targets(self._worker.scope, questions)
        return self._worker.ask(topics.camera, questions, newer_than)

    @staticmethod
    def _refuse_unknown_targets(scope: Scope | None, questions: Iterable[Question]) -> None:
        """Raise ValueError for a question about a target that the model does not know."""
        if scope:
            for question in questions:
                if problem := scope.unknown_target(question):
                    raise ValueError(problem)

    def _out_of_scope(self, topics: CameraTopics, questions: Iterable[Question] = ()) -> str | None:
        """Return why the model was not taught to answer these questions about the camera's images; else None."""
        if (scope := self._worker.scope if self._worker else None) is None:
            return None
        if scope.simulator_only and not topics.is_simulated:
            foreign = "these images are not the simulator's: its answers mean nothing; use real weights"
            return f"{scope.about}, and {foreign}"
        return next(filter(None, map(scope.unknown, questions)), None)

    def _camera(self, name: str) -> CameraTopics:
        """Return the topics of the camera `name`, or of the first one if it is empty. Raises ValueError if unknown."""
        found = self._cameras.get(name or next(iter(self._cameras)))
        if found is None:
            raise ValueError(f"there is no camera {name!r:.200}, expected one of {', '.join(self._cameras)}")
        return found

    @staticmethod
    def _refused_qos(topics: CameraTopics) -> str | None:
        return None if topics.camera and topics.camera.monitor.form else topics.refused_qos

    def _watch(self) -> None:
        """Check for asks that wait too long, and for a model or a camera that hangs."""
        self._asks.watch()
        if not self._worker:
            return
        self._listen()
        if self._active:
            for topics in self._cameras.values():
                topics.watch()
                topics.out_of_scope = self._out_of_scope(topics)
        since = self._worker.busy_since
        if (problem := self._hanging()) and since != self._hung_since:
            self._hung_since = since
            self._faults.add("model hangs", problem)

    def _hanging(self) -> str | None:
        """Return a message if the model takes too long for an image; else None."""
        since = self._worker.busy_since if self._worker else None
        most = self._table.values.ask_timeout
        if self._worker is None or since is None or time.monotonic() - since <= (limit := self._worker.limit(most)):
            return None
        frames = self._worker.frames_at_once
        what = f"{frames} images" if frames > 1 else "one image"
        name = "ask_timeout" if limit == most else "usual"
        advice = "if it is only slow, raise ask_timeout or choose a smaller model; " if limit == most else ""
        advice += "if it hangs, end the process and start it again"
        return f"the model has been at {what} for longer than {name} ({limit:.2g} s): {advice}"

    def _longest_wait(self, texts: bool) -> float:
        """Return how long [s] the answer of an ask, perhaps for `texts`, is awaited; it may wait for a description."""
        values, worker = self._table.values, self._worker
        if worker is None:
            return values.ask_timeout
        kinds = (False, True) if texts or values.perception.description.rate else (False,)
        return max(worker.limit(values.ask_timeout, kind) for kind in kinds)

    def _not_ready(self) -> str | None:
        """Return why no question can be answered now, or None."""
        name = self.get_fully_qualified_name()
        if not self._worker:
            reason = self._load_error or "it is not configured"
            return f"the classifier has no model: {reason} (ros2 lifecycle set {name} configure)"
        if self._worker.state != "ready":
            return (
                f"the model is not there yet: {self._worker.state} ({self._model_name!r}); wait for a message on "
                "model_scope, which comes when the model is ready, and ask again"
            )
        if not self._active:
            return f"the classifier is not active (ros2 lifecycle set {name} activate)"
        return None

    @property
    def _model_name(self) -> str:
        return models_shown(self._table.values.model)

    # Outputs of the worker, in its thread

    def _pass_over(self, reason: str) -> None:
        self._passed_over.append(reason)
        self.get_logger().warning(f"not loaded, trying the next one: {one_line(reason)}")

    def _publish(self, source: Worker, output: Output) -> None:
        if isinstance(output, Label):
            rate = self._table.values.annotated_image_rate
            self._cameras[output.frame.camera].publish_label(output, rate)
        elif isinstance(output, Description):
            self._cameras[output.frame.camera].publish_description(output)
        elif isinstance(output, Fault):
            faults = self._cameras[output.camera].faults if output.camera else self._faults
            faults.add(output.kind, output.error)
        elif isinstance(output, Loaded):
            facts = ", ".join(f"{key} {value}" for key, value in output.facts.items())
            self.get_logger().info(one_line(f"model ready: {facts}"))
            self._publish_scope(output)
        elif isinstance(output, Failed):
            in_executor(self, self._give_up, source, one_line(output.error))

    def _publish_scope(self, loaded: Loaded) -> None:
        scope = loaded.scope or Scope("", {})
        if scope.about:
            self.get_logger().warning(f"{scope.about}: its answers to anything else mean nothing")
        message = ModelScope(
            model=loaded.facts.get("model", ""),
            about=scope.about,
            targets=scope.targets,
            clear_distance=scope.clear_distance or 0.0,
        )
        self._scopes.publish(message)

    def _give_up(self, source: Worker, reason: str) -> None:
        """Go back to unconfigured, so that the user can remove the cause and configure the node again."""
        if source is not self._worker:
            return
        self.get_logger().error(f"model {self._model_name!r} cannot be used: {reason}")
        if self._active:
            self.trigger_deactivate()
        self.trigger_cleanup()
        self._load_error = reason

    # Health

    def _health(self) -> Health:
        return dataclasses.replace(self._state(), values=self._metrics())

    def _state(self) -> Health:
        if reason := self._not_ready():
            if silent := self._silent_cameras():  # report it before a large model is loaded
                return Health(Level.ERROR, f"{silent}; and {reason}")
            return Health(Level.ERROR if self._load_error else Level.WARN, reason, logged=bool(self._load_error))
        if problem := self._hanging():
            return Health(Level.ERROR, problem, logged=True)
        cameras = joint({name: topics.health for name, topics in self._cameras.items()})
        if (fault := self._faults.recent or self._trace_problem) and cameras.level is not Level.ERROR:
            return Health(Level.WARN, fault, logged=fault != self._trace_problem)
        return cameras

    def _silent_cameras(self) -> str | None:
        """Return why no camera has sent an image yet; None if one has, or without a subscription."""
        if not self._active or not self._worker:
            return None
        reasons = [topics.silence for topics in self._cameras.values()]
        return reasons[0] if all(reasons) else None

    @property
    def _trace_problem(self) -> str | None:
        return self._trace.problem if self._trace else None

    def _camera_health(self, topics: CameraTopics) -> Health:
        """Return the health of one of several cameras."""
        reason = self._not_ready()
        health = Health(Level.WARN, reason) if reason else topics.health
        return dataclasses.replace(health, values=topics.metrics())

    def _metrics(self) -> dict[str, object]:
        figures: dict[str, object] = {"model": self._model_name}
        if self._worker:
            figures |= self._worker.metrics()
            if scope := self._worker.scope:
                figures["scope"] = scope.about
            if (device := self._worker.facts.get("device", "")).startswith("cuda"):
                used, there = memory.gpu_memory(device)
                figures["GPU memory in use [MiB]"] = f"{used >> 20} of {there >> 20}"
        if self._passed_over:
            figures["passed over"] = "; ".join(self._passed_over)
        if len(self._cameras) == 1:
            (topics,) = self._cameras.values()
            figures |= topics.metrics() | self._faults.metrics(topics.faults)
        else:
            figures |= self._faults.metrics()
        if problem := self._trace_problem:
            figures["trace"] = problem
        figures["peak memory [MiB]"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return figures


def joint(healths: Mapping[str, Health]) -> Health:
    """Return the health of all cameras together. It is an error only if all of them have one."""
    if len(healths) == 1:
        return next(iter(healths.values()))
    bad = {camera: health for camera, health in healths.items() if health.level is not Level.OK}
    if not bad:
        return Health(Level.OK, f"looking with {len(healths)} cameras")
    errors = sum(health.level is Level.ERROR for health in bad.values())
    level = Level.ERROR if errors == len(healths) else Level.WARN
    return Health(level, "; ".join(f"{camera}: {health.message}" for camera, health in bad.items()))


def main() -> int:
    """Run the node."""
    return run(Classifier)
