"""The navigator's side of the classifier: servers of `ask`, one request at a time, and what the model knows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from vlm_perception.models.scope import unknown_target
from vlm_perception.msg import ModelScope
from vlm_perception.navigation.sighting import check_target
from vlm_perception.nodes.conversions import question_to_message
from vlm_perception.nodes.graph import services_of
from vlm_perception.questions import Question
from vlm_perception.srv import Ask


class AskError(Exception):
    """No answer of the classifier can be had; `kind` is the fault that is counted, the message is the reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class ClassifierClient:
    """The client of the classifier's service `ask`. At most one request is waited for."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client = node.create_client(Ask, "ask")
        self._pending: Future | None = None
        self._asked = -math.inf
        self._newest = Time()
        self.scope = ModelScope()
        """What the model knows, as the classifier says; empty until then."""
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(ModelScope, "model_scope", self._take_scope, latched)

    def _take_scope(self, message: ModelScope) -> None:
        self.scope = message

    @property
    def is_waiting(self) -> bool:
        """Whether a request is waited for."""
        return self._pending is not None

    def missing(self) -> str | None:
        """Return why nobody can be asked, or None."""
        if self._client.service_is_ready():
            return None
        service = self._node.resolve_service_name(self._client.service_name)
        return f"no classifier: nobody offers {service}; does it run?"

    def check_target(self, given: str) -> str:
        """Return the name of the target that is meant; ValueError says why it is none, or none that the model knows."""
        target = check_target(given)
        if self.scope.targets and target not in self.scope.targets:
            raise ValueError(unknown_target(target, self.scope.targets, self.scope.about))
        return target

    def is_due(self, rate: float) -> bool:
        """Whether to ask now, at `rate` [Hz]; 0: as soon as nothing is waited for."""
        waited = rate == 0.0 or time.monotonic() - self._asked >= 1.0 / rate
        return waited and not self.is_waiting

    def ask(self, questions: Mapping[str, Question], newer: bool) -> Future:
        """Ask the `questions`, about a `newer` image than the last answer's or about the newest; `response` reads it.

        Raises AskError when there is no classifier, or more than one.
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
        """Return the response that `future` has, None when it is not waited for any more; raises AskError."""
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
        return response

    def drop(self) -> None:
        """Wait no more: what the request is answered with, if ever, is not wanted."""
        if self._pending is not None:
            self._client.remove_pending_request(self._pending)
            self._pending = None

    def drop_late(self, timeout: float) -> str | None:
        """Wait no more for a request that is older than `timeout` [s]; return what to say of that, or None."""
        if self._pending is None or time.monotonic() - self._asked < timeout:
            return None
        self.drop()
        limit = f"{timeout:g} s (ask_timeout)"
        return f"the classifier did not answer within {limit}: does it hang, or is its model or the camera slower?"

    def _refuse_several(self) -> None:
        """Raise AskError when more than one classifier could answer: whose answer comes first is chance."""
        service = self._client.service_name
        if (count := self._node.count_services(service)) < 2:
            return
        raise AskError(
            "several classifiers",
            f"{count} nodes offer {service}: {', '.join(self._nodes_with(service))}; end all but one, or remap. One "
            "that was killed still counts for some seconds",
        )

    def _nodes_with(self, service: str) -> list[str]:
        """Return the full names of the nodes that offer `service`, as far as they can be found out."""
        names = []
        for name, namespace in sorted(self._node.get_node_names_and_namespaces()):
            if service in services_of(self._node, name, namespace):
                names.append(f"{namespace.rstrip('/')}/{name}")
        return names
