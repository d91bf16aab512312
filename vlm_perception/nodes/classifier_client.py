"""The navigator's client of the classifier: one request to `ask` at a time, and the scope of the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from vlm_perception.models.scope import unknown_target
from vlm_perception.msg import ModelScope
from vlm_perception.navigation.sighting import check_target
from vlm_perception.nodes.conversions import question_to_message
from vlm_perception.nodes.graph import services_of
from vlm_perception.nodes.navigator_parameters import SHORTEST_WAIT
from vlm_perception.patience import Patience
from vlm_perception.questions import Question
from vlm_perception.srv import Ask


class AskError(Exception):
    """The classifier gives no answer. `kind` is the kind of fault that is counted, the message is the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class ClassifierClient:
    """The client of the classifier's service `ask`, with at most one pending request.

    `on_scope` is called when another model tells what it knows.
    """

    def __init__(self, node: Node, on_scope: Callable[[], None]) -> None:
        self._on_scope = on_scope
        self._node = node
        self._client = node.create_client(Ask, "ask")
        self._pending: Future | None = None
        self._asked = -math.inf
        self._patience = Patience(SHORTEST_WAIT)
        self._newest = Time()
        self.scope = ModelScope()
        """Scope of the model, as the classifier publishes it; empty until then."""
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(ModelScope, "model_scope", self._take_scope, latched)

    def _take_scope(self, message: ModelScope) -> None:
        self.scope = message
        self._on_scope()

    @property
    def is_waiting(self) -> bool:
        """Whether a request is pending."""
        return self._pending is not None

    def missing(self) -> str | None:
        """Return why there is no classifier to ask, or None."""
        if self._client.service_is_ready():
            return None
        service = self._node.resolve_service_name(self._client.service_name)
        return f"no classifier: nobody offers {service}; does it run?"

    def check_target(self, given: str) -> str:
        """Return the name of the target. Raises ValueError for one that is malformed or unknown to the model."""
        target = check_target(given)
        if self.scope.targets and target not in self.scope.targets:
            raise ValueError(unknown_target(target, self.scope.targets, self.scope.about))
        return target

    def is_due(self, rate: float) -> bool:
        """Return whether to ask now, at `rate` [Hz]; with 0, as soon as no request is pending."""
        waited = rate == 0.0 or time.monotonic() - self._asked >= 1.0 / rate
        return waited and not self.is_waiting

    def ask(self, questions: Mapping[str, Question], newer: bool) -> Future:
        """Ask the `questions` about the newest image, or only about a `newer` one than that of the last answer.

        Pass the future to `response`. Raises AskError if there is no classifier or more than one.
        """
        self._asked = time.monotonic()
        if problem := self.missing():
            raise AskError("no classifier", problem)
        self._refuse_several()
        request = Ask.Request(questions=[question_to_message(*named) for named in questions.items()])
        if newer:
            request.newer_than = self._newest
        self._pending = self._client.call_async(request)
        return self._pending

    def response(self, future: Future) -> Ask.Response | None:
        """Return the response of `future`, or None if that request was dropped. Raises AskError."""
        if future is not self._pending:
            return None
        self._pending = None
        self._refuse_several()
        if future.exception() is not None:
            raise AskError("failure", f"asking the classifier failed: {future.exception()}")
        response = future.result()
        if not response.success:
            reason = response.message or "it does not say why"
            raise AskError("failure", f"the classifier cannot answer: {reason}")
        self._newest = response.header.stamp
        self._patience.took(time.monotonic() - self._asked)
        return response

    def drop(self) -> None:
        """Drop the pending request and its answer."""
        if self._pending is not None:
            self._client.remove_pending_request(self._pending)
            self._pending = None

    def drop_late(self, most: float) -> None:
        """Drop a pending request that is lost. Raises AskError when it did.

        It is lost when the classifier is gone, or when its answer takes much longer than is usual, at the latest after
        `most` [s].
        """
        if self._pending is None:
            return
        if problem := self.missing():
            self.drop()
            raise AskError("no classifier", problem)
        limit = self._patience.limit(most)
        if time.monotonic() - self._asked < limit:
            return
        self.drop()
        self._patience.took(limit)
        words = (
            f"the classifier did not answer within {limit:.2g} s: does it hang, or is its model or the camera slower?"
        )
        raise AskError("time-out", words)

    def _refuse_several(self) -> None:
        """Raise AskError if there is more than one classifier, since any of them could answer first."""
        service = self._client.service_name
        if (count := self._node.count_services(service)) < 2:
            return
        raise AskError(
            "several classifiers",
            f"{count} nodes offer {service}: {', '.join(self._nodes_with(service))}; end all but one, or remap. One "
            "that was killed still counts for some seconds",
        )

    def _nodes_with(self, service: str) -> list[str]:
        """Return the full names of the known nodes that offer `service`."""
        names = []
        for name, namespace in sorted(self._node.get_node_names_and_namespaces()):
            if service in services_of(self._node, name, namespace):
                names.append(f"{namespace.rstrip('/')}/{name}")
        return names
