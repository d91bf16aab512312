"""Questions of other nodes that wait for the model, or for a newer frame."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from vlm_perception.perception.camera import Camera
from vlm_perception.perception.outputs import Reply
from vlm_perception.questions import Question


@dataclass(frozen=True, eq=False)
class Ask:
    """`questions` about the newest frame of `camera`, once that is newer than `newer_than` [ns]."""

    camera: Camera
    questions: Sequence[Question]
    newer_than: int = 0
    reply: Future[Reply] = field(default_factory=Future)


class AskQueue:
    """The asks that wait, oldest first. Any thread may put; one thread takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asks: list[Ask] = []

    def __len__(self) -> int:
        return len(self._asks)

    def put(self, ask: Ask) -> None:
        """Add `ask` at the end."""
        with self._lock:
            self._asks.append(ask)

    def take(self, most: int) -> dict[Camera, list[Ask]]:
        """Return the asks about the first `most` cameras; they cannot be cancelled any more.

        An ask stays while its camera has no frame as new as it wants.
        """
        with self._lock:
            taken: dict[Camera, list[Ask]] = {}
            rest = []
            for ask in self._asks:
                if ask.reply.done():
                    continue
                if (ask.camera in taken or len(taken) < most) and ask.camera.has_newer(ask.newer_than):
                    taken.setdefault(ask.camera, []).append(ask)
                else:
                    rest.append(ask)
            self._asks = rest
        return {camera: [ask for ask in asks if _begin(ask)] for camera, asks in taken.items()}

    def put_back(self, asks: Sequence[Ask]) -> None:
        """Add `asks` at the front: the newer image could not be decoded."""
        with self._lock:
            self._asks[:0] = asks

    @property
    def is_pressing(self) -> bool:
        """Whether an ask waits for the model, and not for a frame."""
        with self._lock:
            return any(ask.camera.has_newer(ask.newer_than) for ask in self._asks if not ask.reply.done())

    def fail(self, error: Exception) -> None:
        """Fail all asks with `error`."""
        with self._lock:
            asks, self._asks = self._asks, []
        for ask in asks:
            if not ask.reply.done() and _begin(ask):
                ask.reply.set_exception(error)


def _begin(ask: Ask) -> bool:
    """Whether `ask` was not cancelled; from now on it cannot be."""
    return ask.reply.running() or ask.reply.set_running_or_notify_cancel()
