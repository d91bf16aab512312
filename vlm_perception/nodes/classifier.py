"""The classifier: pictures in; a smoothed label, a description and answers to anybody's typed questions out.

The executor's thread only stores pictures, takes questions and publishes diagnostics. One worker thread
owns the model: it loads, warms up, decodes and answers. Each camera is a `Channel`.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from vlm_perception.models import memory
from vlm_perception.models.address import is_address, shown
from vlm_perception.models.base import Model
from vlm_perception.models.loader import load_first
from vlm_perception.models.options import ATTENTIONS, DTYPES, EXECUTION_PROVIDERS, QUANTIZATIONS, LoadOptions
from vlm_perception.models.scope import Scope
from vlm_perception.msg import ModelScope
from vlm_perception.nodes import conversions
from vlm_perception.nodes.channel import Channel, names_of_cameras
from vlm_perception.nodes.diagnostics import Diagnostics, Health, Level
from vlm_perception.nodes.faults import Faults, one_line
from vlm_perception.nodes.parameters import ParameterError, ParameterTable, parameter
from vlm_perception.nodes.run import run
from vlm_perception.nodes.services import create_service
from vlm_perception.perception import worker
from vlm_perception.perception.frames import nanoseconds
from vlm_perception.perception.reuse import ReuseSettings
from vlm_perception.perception.settings import Settings
from vlm_perception.perception.smoothing import METHODS, SmoothedLabel, SmoothingSettings
from vlm_perception.perception.trace import Trace
from vlm_perception.perception.view import NotAnsweredError, Observation
from vlm_perception.questions import Answer, Choice, Question, Text, check_request
from vlm_perception.srv import Ask

MAX_QUESTIONS = 64
WATCH_PERIOD = 0.1
"""How often time-outs are looked for [s]."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of the classifier."""

    model: str = parameter(
        "nano",
        "The shipped model 'nano', a model folder or a server's address; of several with commas, the first that "
        "can be loaded (a path with a comma or a blank at its end in quotes: '/data/a,b', nano); used at configure; a "
        "server that was not named at start is refused later, see allow_remote_model",
        dynamic=True,
    )
    allow_remote_model: bool = parameter(
        False, "`model` may name a server that it did not name at start, by anybody on the ROS network"
    )
    device: str = parameter("auto", "Where the model runs: auto, cpu, cuda or cuda:N; used at configure", dynamic=True)
    dtype: str = parameter("auto", "Precision of the model; used at configure", choices=DTYPES, dynamic=True)
    quantization: str = parameter(
        "none",
        "Bits of the weights in linear layers, by bitsandbytes; used at configure",
        choices=QUANTIZATIONS,
        dynamic=True,
    )
    attn_implementation: str = parameter(
        "auto", "How attention is computed; used at configure", choices=ATTENTIONS, dynamic=True
    )
    execution_provider: str = parameter(
        "auto",
        "What ONNX Runtime runs the vision tower of an exported model on; used at configure",
        choices=EXECUTION_PROVIDERS,
        dynamic=True,
    )
    tf32: bool = parameter(
        False, "A GPU multiplies float32 faster, to 10 bits of the mantissa; used at configure", dynamic=True
    )
    cudnn_benchmark: bool = parameter(
        False, "A GPU tries which convolutions are fastest for each size of picture; used at configure", dynamic=True
    )
    image_size: int = parameter(
        0,
        "Edge of the square that the model looks at, which its time depends on; 0 is its own; used at configure",
        unit="pixels",
        minimum=0,
        maximum=4096,
        dynamic=True,
    )
    temperatures: tuple[float, ...] = parameter(
        (),
        "For choice, yes_no and score, above 1 is less sure; empty: as in its decision.json; used at configure",
        dynamic=True,
    )
    empty_picture: tuple[float, ...] = parameter(
        (),
        "For choice, yes_no and score, what share of its answer to an empty picture is taken off, 0 to 1; empty: as in "
        "its decision.json; used at configure",
        dynamic=True,
    )
    describer: str = parameter(
        "",
        "Folder of a language model that makes a dual encoder's descriptions, or none; used at configure",
        dynamic=True,
    )
    request_timeout: float = parameter(
        20.0,
        "A server that has not answered by then has failed; used at configure",
        unit="s",
        minimum=0.05,
        maximum=600.0,
        dynamic=True,
    )
    requests_in_flight: int = parameter(
        4, "Requests to a server at once, at most; used at configure", minimum=1, maximum=64, dynamic=True
    )
    check_memory: bool = parameter(
        True, "Refuse a model that needs more memory than is free, before it is loaded; used at configure", dynamic=True
    )
    autostart: bool = parameter(True, "Configure and activate without being told to")
    camera_topics: tuple[str, ...] = parameter(
        ("camera/image_raw",),
        "Where the pictures come from; with several, each camera is called as its topic is without the last part, and "
        "what is published about it begins with that: front/scene_label",
    )
    image_transport: str = parameter(
        "raw", "raw: camera/image_raw; compressed: camera/image_raw/compressed", choices=("raw", "compressed")
    )
    batch_window: float = parameter(
        0.05,
        "With several cameras, how long the first picture waits for others, to be looked at together",
        unit="s",
        minimum=0.0,
        maximum=1.0,
        dynamic=True,
    )
    max_batch: int = parameter(
        16, "So many cameras' pictures are looked at together, at most", minimum=1, maximum=256, dynamic=True
    )
    max_frame_age: float = parameter(
        1.0, "A picture older than this is not looked at", unit="s", minimum=0.05, maximum=3600.0, dynamic=True
    )
    labels: tuple[str, ...] = parameter(
        ("clear", "obstacle", "wall", "doorway", "corridor"), "What the scene may be called", dynamic=True
    )
    label_prompt: str = parameter("what is ahead?", "What the model is asked for the label", dynamic=True)
    label_descriptions: tuple[str, ...] = parameter(
        (), "What each label means, in more words: none, or one for each, which may be empty", dynamic=True
    )
    follow_motion: bool = parameter(
        False,
        "For a camera that stands still: the label is about the part of the picture where something moves",
        dynamic=True,
    )
    label_rate: float = parameter(
        10.0,
        "How often the scene is labelled, at most; 0 is never",
        unit="Hz",
        minimum=0.0,
        maximum=100.0,
        dynamic=True,
    )
    unknown_label: str = parameter("unknown", "What the scene is called while in doubt", dynamic=True)
    smoothing: str = parameter("bayes", "How labels are smoothed over time", choices=METHODS, dynamic=True)
    smoothing_window: float = parameter(
        2.0,
        "How long a picture counts for majority; after a longer gap all methods begin anew",
        unit="s",
        minimum=0.0,
        maximum=60.0,
        dynamic=True,
    )
    smoothing_evidence_time: float = parameter(
        0.2,
        "For bayes: pictures closer in time than this count less",
        unit="s",
        minimum=0.0,
        maximum=10.0,
        dynamic=True,
    )
    smoothing_change_rate: float = parameter(
        0.2, "For bayes: how often the scene changes", unit="1/s", minimum=0.0, maximum=100.0, dynamic=True
    )
    enter_threshold: float = parameter(
        0.6, "A label is entered when its belief reaches this", minimum=0.0, maximum=1.0, dynamic=True
    )
    leave_threshold: float = parameter(
        0.4, "A label is left when its belief falls below this", minimum=0.0, maximum=1.0, dynamic=True
    )
    description_prompt: str = parameter(
        "describe the scene", "What the model is asked for the description", dynamic=True
    )
    description_phrases: tuple[str, ...] = parameter(
        (), "What a dual encoder may say in a description; none: its usual phrases", dynamic=True
    )
    description_rate: float = parameter(
        0.5, "How often the scene is described, at most; 0 is never", unit="Hz", minimum=0.0, maximum=10.0, dynamic=True
    )
    description_max_new_tokens: int = parameter(
        64, "Longest description, also for asked texts", unit="tokens", minimum=1, maximum=1024, dynamic=True
    )
    reuse_threshold: float = parameter(
        0.0,
        "Label and description are used again while no part of the picture differs by more than this from the one "
        "that they are about, or by less if the model was less than 99 % sure; 0 is never",
        unit="grey levels",
        minimum=0.0,
        maximum=255.0,
        dynamic=True,
    )
    reuse_scenes: int = parameter(
        64,
        "So many scenes are remembered for each question, those that were met last",
        minimum=1,
        maximum=1000,
        dynamic=True,
    )
    reuse_lifetime: float = parameter(
        300.0, "An answer older than this is not used again", unit="s", minimum=0.0, maximum=86400.0, dynamic=True
    )
    reuse_refresh: float = parameter(
        2.0,
        "The model is asked again after so long without it, or two and a half periods of what is asked if that is "
        "longer, however little the picture changes",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
        dynamic=True,
    )
    ask_timeout: float = parameter(
        5.0, "A question that is not answered by then has failed", unit="s", minimum=0.05, maximum=600.0, dynamic=True
    )
    annotated_image_rate: float = parameter(
        5.0,
        "How often a label is drawn on its picture when somebody subscribes, at most; 0 is never",
        unit="Hz",
        minimum=0.0,
        maximum=100.0,
        dynamic=True,
    )
    trace_file: str = parameter(
        "",
        "File for a trace of where each picture's time goes, which ui.perfetto.dev opens, some 10 kB/s; none if empty; "
        "a new file, or an old trace",
    )

    def __post_init__(self) -> None:
        if len(self.label_descriptions) not in (0, len(self.labels)):
            raise ValueError(
                f"there are {len(self.label_descriptions)} label_descriptions for {len(self.labels)} labels, expected "
                "none or one for each: change both together with the service set_parameters_atomically"
            )
        names_of_cameras(self.camera_topics)
        self.settings()
        self.load_options()

    def load_options(self) -> LoadOptions:
        """How the model is loaded; ValueError when that cannot be meant."""
        return LoadOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(LoadOptions)})

    def settings(self) -> Settings:
        """What the worker needs of them; ValueError when they do not fit together."""
        return Settings(
            label=Choice("label", self.label_prompt, self.labels, self.label_descriptions),
            label_rate=self.label_rate,
            description=Text(
                "description", self.description_prompt, self.description_max_new_tokens, self.description_phrases
            ),
            description_rate=self.description_rate,
            max_age=self.max_frame_age,
            smoothing=SmoothingSettings(
                method=self.smoothing,
                window=self.smoothing_window,
                evidence_time=self.smoothing_evidence_time,
                change_rate=self.smoothing_change_rate,
                enter=self.enter_threshold,
                leave=self.leave_threshold,
                unknown=self.unknown_label,
            ),
            batch_window=self.batch_window,
            max_batch=self.max_batch,
            follow_motion=self.follow_motion,
            reuse=ReuseSettings(self.reuse_threshold, self.reuse_scenes, self.reuse_lifetime, self.reuse_refresh),
        )


LOADING = ("model", *(field.name for field in dataclasses.fields(LoadOptions)))
"""The parameters that are used at configure."""


def addresses(models: str) -> set[str]:
    """Return the addresses of servers in a list of models."""
    return {name for name in models.replace(",", " ").split() if is_address(name)}


@dataclass(frozen=True, eq=False)
class Pending:
    """An `ask` that waits: `outcome` becomes its response. Only the executor's thread completes it."""

    ask: worker.Ask
    outcome: Future
    deadline: float


Load = Callable[[str, LoadOptions, Callable[[str], None]], Model]
"""As `loader.load_first`."""


def load_beside_others(models: str, options: LoadOptions, passed_over: Callable[[str], None]) -> Model:
    """`load_first`, with half of the cores for the model: threads that wait for a busy core slow it many times over."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    return load_first(models, options, passed_over)


class Classifier(LifecycleNode):
    """See the module. `load` makes the model."""

    def __init__(self, load: Load = load_beside_others, **node_arguments: Any) -> None:
        super().__init__("classifier", **node_arguments)
        self._load = load
        self._table = ParameterTable(self, Parameters, self._change)
        self._addresses = addresses(self._table.values.model)
        self._worker: worker.Worker | None = None
        self._last_worker: worker.Worker | None = None
        self._trace: Trace | None = None
        self._active = False
        self._load_error = ""
        self._passed_over: list[str] = []
        self._faults = Faults(self.get_logger())
        self._hung_since: float | None = None
        self._pending: list[Pending] = []
        self._channels = self._make_channels(self._table.values)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._scopes = self.create_publisher(ModelScope, "model_scope", latched)
        # An answer comes from the worker, so `ask` waits; in a group of its own nobody else waits with it.
        failed = partial(self._faults.add, "internal")
        create_service(self, Ask, "ask", self._ask, failed, callback_group=ReentrantCallbackGroup())
        self.create_timer(WATCH_PERIOD, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))
        several = self._channels.values() if len(self._channels) > 1 else ()
        Diagnostics(self, self._health, {channel.camera: partial(self._camera_health, channel) for channel in several})

    def _make_channels(self, values: Parameters) -> dict[str, Channel]:
        topics = values.camera_topics
        resolved = [self.resolve_topic_name(topic) for topic in topics]
        if repeated := {topic for topic in resolved if resolved.count(topic) > 1}:
            raise ParameterError(
                f"camera_topics {list(topics)} are not all different: after remapping, more than one of them is "
                f"{', '.join(sorted(repeated))}"
            )
        compressed = values.image_transport == "compressed"
        return {
            camera: Channel(self, camera, topic, compressed, len(topics) > 1)
            for camera, topic in zip(names_of_cameras(topics), topics, strict=True)
        }

    # Life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to load the model; `ask` and the diagnostics say when it is there."""
        values = self._table.values
        self._load_error, self._passed_over = "", []
        try:
            self._trace = Trace(Path(values.trace_file)) if values.trace_file else None
        except OSError as error:
            self._load_error = (
                f"trace_file {values.trace_file!r} cannot be written: {error}; choose another at the start"
            )
            self.get_logger().error(self._load_error)
            return TransitionCallbackReturn.FAILURE
        self._worker = worker.Worker(
            lambda: self._load(values.model, values.load_options(), self._pass_over),
            values.settings(),
            self,
            lambda: self.get_clock().now().nanoseconds,
            list(self._channels),
            self._last_worker,
            self._trace,
        )
        self._worker.start()
        self.get_logger().info(f"loading model {self._model_name!r}")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = True
        self._worker.look(True)
        self._listen()
        return super().on_activate(state)

    def _listen(self) -> None:
        """Subscribe to the cameras when there is a model to look: a recording begins when somebody subscribes."""
        if self._active and self._worker.state == "ready":
            for channel in self._channels.values():
                channel.open(partial(self._worker.put, channel.camera))

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
        """Whatever a transition failed with, the node can be configured again."""
        self._go_quiet()
        self._free_model()
        self._load_error = f"the transition from {state.label} failed"
        return super().on_error(state)

    def close(self) -> None:
        """Let the worker go; a model that is just loading is not waited for."""
        self._go_quiet()
        self._free_model()
        if self._last_worker:
            self._last_worker.join(timeout=1.0)

    def _go_quiet(self) -> None:
        self._active = False
        if self._worker:
            self._worker.look(False)
        for channel in self._channels.values():
            channel.close()

    def _free_model(self) -> None:
        if self._worker:
            self._worker.stop()
            self._last_worker, self._worker = self._worker, None
        if self._trace:
            self._trace.close()

    def _change(self, values: Parameters) -> None:
        now = self._table.values
        strange = sorted(addresses(values.model) - self._addresses)
        if strange and not now.allow_remote_model:
            raise ValueError(
                f"model names the server {shown(strange[0])!r:.200}, to which the camera's pictures would "
                "go: give it at start, or set allow_remote_model at start if anybody on the ROS network may choose one"
            )
        fixed = [name for name in LOADING if getattr(values, name) != getattr(now, name)]
        if fixed and self._worker:
            raise ValueError(
                f"{' and '.join(fixed)} cannot change while a model is loaded: ros2 lifecycle set "
                f"{self.get_fully_qualified_name()} deactivate and cleanup before, configure and activate after it"
            )
        if self._worker:
            if problem := values.settings().unknown(self._worker.scope):
                raise ValueError(problem)
            self._worker.change(values.settings())

    # Questions

    async def _ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        try:
            channel = self._channel(request.camera)
            if reason := self._not_ready() or self._refused_qos(channel):
                raise NotAnsweredError(reason)
            asked = self._read(request)
            self._refuse_unknown_targets(asked)
        except (ValueError, NotAnsweredError) as error:
            response.message = str(error)
            return response
        outcome = Future()
        seconds = self._table.values.ask_timeout

        def answered(picture: Observation, answers: list[Answer]) -> None:
            response.success = True
            response.header = picture.header
            response.answers = [conversions.answer_to_message(answer) for answer in answers]
            response.inference_time = time.monotonic() - picture.taken
            response.unchanged = picture.unchanged
            self._in_executor(self._complete, pending, "")

        def failed(error: Exception) -> None:
            self._in_executor(self._complete, pending, one_line(error))

        ask = worker.Ask(channel.camera, asked, answered, failed, nanoseconds(request.newer_than))
        pending = Pending(ask, outcome, time.monotonic() + seconds)
        self._pending.append(pending)
        self._worker.ask(pending.ask)
        if problem := await outcome:
            return Ask.Response(message=problem)
        response.out_of_scope = self._out_of_scope(channel, asked)
        return response

    def _refuse_unknown_targets(self, asked: Sequence[Question]) -> None:
        """Raise ValueError where a question is about a target that the model cannot know."""
        if scope := self._worker.scope:
            for question in asked:
                if problem := scope.unknown_target(question):
                    raise ValueError(problem)

    def _out_of_scope(self, channel: Channel, asked: Sequence[Question] = ()) -> str:
        """Why the model was not taught to answer what is `asked` about the channel's images; else ""."""
        if (scope := self._worker.scope if self._worker else None) is None:
            return ""
        if scope.simulator_only and not channel.is_simulated:
            foreign = "these images are not the simulator's: its answers mean nothing; use real weights"
            return f"{scope.about}, and {foreign}"
        return next(filter(None, map(scope.unknown, asked)), "")

    def _channel(self, camera: str) -> Channel:
        """That of the `camera`, or of the first if none is named; ValueError when there is no such camera."""
        name = camera or next(iter(self._channels))
        if name not in self._channels:
            raise ValueError(f"there is no camera {camera!r:.200}, expected one of {', '.join(self._channels)}")
        return self._channels[name]

    def _refused_qos(self, channel: Channel) -> str:
        return "" if self._worker.views[channel.camera].stream.form else channel.refused_qos

    def _read(self, request: Ask.Request) -> list[Question]:
        if not 1 <= len(request.questions) <= MAX_QUESTIONS:
            raise ValueError(f"there are {len(request.questions)} questions, expected 1 to {MAX_QUESTIONS}")
        tokens = self._table.values.description_max_new_tokens
        asked = [conversions.question_from_message(question, tokens) for question in request.questions]
        names = Counter(question.name for question in asked)
        if repeated := sorted(name for name, count in names.items() if count > 1):
            raise ValueError(
                f"the names {repeated!r:.200} are used more than once, expected every question to have its own"
            )
        check_request(asked)
        return asked

    def _complete(self, pending: Pending, problem: str) -> None:
        if pending in self._pending:
            self._pending.remove(pending)
            pending.outcome.set_result(problem)

    def _watch(self) -> None:
        """Nobody waits for ever, and a model or a camera that stands still is noticed."""
        now = time.monotonic()
        for pending in [p for p in self._pending if p.deadline < now]:
            waiting = self._worker is not None and self._worker.withdraw(pending.ask)
            why = "the model is busy or too slow"
            if waiting and pending.ask.newer_than:
                why += ", or no newer picture came: is the camera slower?"
            self._complete(pending, f"no answer within {self._table.values.ask_timeout:g} s (ask_timeout): {why}")
        if not self._worker:
            return
        self._listen()
        if self._active:
            self._worker.watch()
            for channel in self._channels.values():
                channel.out_of_scope = self._out_of_scope(channel)
        since = self._worker.busy_since
        if (problem := self._hanging()) and since != self._hung_since:
            self._hung_since = since
            self._faults.add("model hangs", problem)

    def _hanging(self) -> str:
        """In words that the model does not come back from a picture; else ""."""
        since = self._worker.busy_since if self._worker else None
        limit = self._table.values.ask_timeout
        if since is None or time.monotonic() - since <= limit:
            return ""
        several = self._worker.at_once > 1
        what = f"{self._worker.at_once} pictures" if several else "one picture"
        return (
            f"the model has been at {what} for longer than ask_timeout ({limit:g} s): if it is only "
            f"slow, raise that{', lower max_batch' if several else ''} or choose a smaller model; if it hangs, end the "
            "process and start it again"
        )

    def _in_executor(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call `callback` in the executor's thread, from the worker's."""
        if (executor := self.executor) is not None:
            executor.create_task(callback, *arguments)

    def _not_ready(self) -> str:
        """Why nothing can be answered now; else ""."""
        name = self.get_fully_qualified_name()
        if not self._worker:
            reason = self._load_error or "it is not configured"
            return f"the classifier has no model: {reason} (ros2 lifecycle set {name} configure)"
        if self._worker.state != "ready":
            return (
                f"the model is not there yet: {self._worker.state} ({self._model_name!r}); wait until there is "
                "a message on model_scope (it comes with the model), and ask again"
            )
        if not self._active:
            return f"the classifier is not active (ros2 lifecycle set {name} activate)"
        return ""

    @property
    def _model_name(self) -> str:
        return shown(self._table.values.model)

    # What the worker tells, in its thread

    def _pass_over(self, reason: str) -> None:
        self._passed_over.append(reason)
        self.get_logger().warning(f"not loaded, the next one is tried: {one_line(reason)}")

    def loaded(self, source: worker.Worker) -> None:
        self.get_logger().info(one_line("model ready: " + ", ".join(f"{k} {v}" for k, v in source.facts.items())))
        scope = source.scope or Scope("", {})
        if scope.about:
            self.get_logger().warning(f"{scope.about}: its answers to anything else mean nothing")
            values = self._table.values
            if values.description_rate and (problem := scope.unknown(values.settings().description)):
                self.get_logger().warning(f"{problem}: its descriptions mean nothing")
        self._scopes.publish(ModelScope(model=source.facts.get("model", ""), about=scope.about, targets=scope.targets))

    def failed(self, source: worker.Worker, error: BaseException) -> None:
        self._in_executor(self._give_up, source, one_line(error))

    def _give_up(self, source: worker.Worker, reason: str) -> None:
        """Go back to unconfigured, so that the node can be configured again when the cause is gone."""
        if source is not self._worker:
            return
        self.get_logger().error(f"model {self._model_name!r} cannot be used: {reason}")
        if self._active:
            self.trigger_deactivate()
        self.trigger_cleanup()
        self._load_error = reason

    def labelled(self, picture: Observation, answer: Answer, smoothed: SmoothedLabel) -> None:
        rate = self._table.values.annotated_image_rate
        self._channels[picture.camera].publish_label(picture, answer, smoothed, rate)

    def described(self, picture: Observation, answer: Answer) -> None:
        self._channels[picture.camera].publish_description(picture, answer)

    def fault(self, camera: str, kind: str, error: BaseException | str) -> None:
        faults = self._channels[camera].faults if camera else self._faults
        faults.add(kind, error)

    # Health

    def _health(self) -> Health:
        return dataclasses.replace(self._state(), values=self._figures())

    def _state(self) -> Health:
        if reason := self._not_ready():
            if silent := self._silent_cameras():  # worth knowing before a large model is there
                return Health(Level.ERROR, f"{silent}; and {reason}")
            return Health(Level.ERROR if self._load_error else Level.WARN, reason, logged=bool(self._load_error))
        if problem := self._hanging():
            return Health(Level.ERROR, problem, logged=True)
        cameras = joint({camera: self._state_of(channel) for camera, channel in self._channels.items()})
        if (fault := self._faults.recent or self._trace_problem) and cameras.level is not Level.ERROR:
            return Health(Level.WARN, fault, logged=fault != self._trace_problem)
        return cameras

    def _silent_cameras(self) -> str:
        """Why no camera has sent anything yet, in words; "" if one has, or nobody listens."""
        if not self._active or not self._worker:
            return ""
        reasons = [channel.silence(self._worker.views[camera]) for camera, channel in self._channels.items()]
        return reasons[0] if all(reasons) else ""

    @property
    def _trace_problem(self) -> str:
        return self._trace.problem if self._trace else ""

    def _state_of(self, channel: Channel) -> Health:
        return channel.health(self._worker.views[channel.camera], self._table.values.max_frame_age)

    def _camera_health(self, channel: Channel) -> Health:
        """That of one of several cameras."""
        reason = self._not_ready()
        health = Health(Level.WARN, reason) if reason else self._state_of(channel)
        return dataclasses.replace(health, values=self._camera_figures(channel))

    def _camera_figures(self, channel: Channel) -> dict[str, object]:
        return channel.figures(self._worker.views[channel.camera]) if self._worker else channel.faults.figures()

    def _figures(self) -> dict[str, object]:
        figures: dict[str, object] = {"model": self._model_name}
        if source := self._worker:
            figures |= source.facts
            if source.scope:
                figures["scope"] = source.scope.about
            if self._passed_over:
                figures["passed over"] = "; ".join(self._passed_over)
            figures |= costs(source)
            figures |= {"state": source.state, "in this state for [s]": time.monotonic() - source.since}
            figures["inference time [s]"] = source.inference_time
            figures["pictures at once"] = source.at_once
        if len(self._channels) == 1:
            (channel,) = self._channels.values()
            figures |= self._camera_figures(channel) | self._faults.figures(channel.faults)
        else:
            figures |= self._faults.figures()
        if problem := self._trace_problem:
            figures["trace"] = problem
        figures["questions waiting"] = len(self._pending)
        figures["peak memory [MiB]"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return figures


def joint(healths: Mapping[str, Health]) -> Health:
    """That of all cameras: an error only when no camera is without one."""
    if len(healths) == 1:
        return next(iter(healths.values()))
    bad = {camera: health for camera, health in healths.items() if health.level is not Level.OK}
    if not bad:
        return Health(Level.OK, f"looking with {len(healths)} cameras")
    errors = sum(health.level is Level.ERROR for health in bad.values())
    level = Level.ERROR if errors == len(healths) else Level.WARN
    return Health(level, "; ".join(f"{camera}: {health.message}" for camera, health in bad.items()))


def costs(source: worker.Worker) -> dict[str, object]:
    """What the last answers cost, as far as the model tells."""
    figures: dict[str, object] = {}
    if decision := source.decision:
        figures["decision time [s]"] = decision.seconds
        figures["decision peak memory [MiB]"] = decision.peak_memory >> 20
    if words := source.words:
        figures["description time to first token [s]"] = words.time_to_first_token
        figures["description tokens per second"] = words.tokens_per_second
        figures["description tokens"] = words.tokens
        figures["description peak memory [MiB]"] = words.peak_memory >> 20
    if (device := source.facts.get("device", "")).startswith("cuda"):
        used, there = memory.gpu_memory(device)
        figures["GPU memory in use [MiB]"] = f"{used >> 20} of {there >> 20}"
    return figures


def main() -> int:
    """Run the node."""
    return run(Classifier)
