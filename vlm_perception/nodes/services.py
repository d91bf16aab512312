"""Callbacks and services whose errors do not end the node."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.serialization import serialize_message

from vlm_perception.nodes.faults import one_line


def guarded(callback: Callable[..., None], failed: Callable[[Exception], None]) -> Callable[..., None]:
    """Return a callback that calls `callback` and passes an exception to `failed`.

    Otherwise the exception would leave the executor and end the process.
    """

    def call(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            failed(error)

    return call


def create_service(
    node: Node,
    kind: Any,
    name: str,
    callback: Callable[[Any, Any], Any],
    failed: Callable[[Exception], None],
    **more: Any,
) -> Any:
    """Create the service as `node.create_service` does, for a `callback` that may be a coroutine function.

    If the callback raises an exception, or its response cannot be sent, `failed` gets the exception. The caller gets a
    response whose `message` says so. Otherwise the exception would leave the executor and end the process.
    """

    async def respond(request: Any, response: Any) -> Any:
        try:
            answer = callback(request, response)
            if inspect.isawaitable(answer):
                answer = await answer
            serialize_message(answer)
        except Exception as error:
            failed(error)
            return kind.Response(message=f"{name} failed because of an error in this package: {one_line(error)}")
        return answer

    return node.create_service(kind, name, respond, **more)
