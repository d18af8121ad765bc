"""What stands around every RPC: the ready gate, the error mapping, the log line, and the shield from the client's impatience.

An RPC that changes something runs as a supervised task: a client that hangs up or whose deadline ends leaves it running, and its
retry meets the result (services/ join by name and are idempotent). An RPC that only reads, and ExecSync and PullImage, whose work is
worth nothing without the caller, end with the caller. These are plain functions around the handlers, not grpc interceptors: those
cost a coroutine and a lookup a call. No RPC's meaning is known here. Test: tests/unit/cri/test_interceptors.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from orlop.base.errors import OrlopError, Unavailable
from orlop.base.supervise import Supervisor

log = logging.getLogger(__name__)

T = TypeVar("T")

Response = Message | bytes
"""bytes: a response that was serialized before."""
Unary = Callable[[Any], Coroutine[Any, Any, Response]]
"""A handler: takes the request, returns the response, raises OrlopError."""
Streaming = Callable[..., AsyncIterator[Response]]
"""An async generator: takes the request, or the client's messages where it streams too, and the context if it asks for it."""

ID_FIELDS = ("pod_sandbox_id", "container_id")


class Gate:
    """Closed until recovery is done; a closed gate answers UNAVAILABLE at once, so that clients retry instead of hanging."""

    def __init__(self) -> None:
        self.open = False

    def check(self) -> None:
        if not self.open:
            raise Unavailable("orlopd is recovering its pods; try again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Wraps the handlers of all services of one server."""

    gate: Gate
    supervisor: Supervisor

    def changing(self, name: str, handler: Unary) -> Callable[[Any, Any], Awaitable[Response]]:
        """Wrap an RPC that changes something: it is finished even if the client goes away."""

        async def shielded(request: Any) -> Response:
            return await finish(self.supervisor, name, handler(request))

        return self._wrap(name, shielded, logging.INFO)

    def reading(
        self, name: str, handler: Unary, level: int = logging.DEBUG
    ) -> Callable[[Any, Any], Awaitable[Response]]:
        """Wrap an RPC that only reads, or whose work is worth nothing without its caller."""
        return self._wrap(name, handler, level)

    def streaming(
        self, name: str, handler: Streaming, *, with_context: bool = False
    ) -> Callable[[Any, Any], AsyncIterator[Response]]:
        """Wrap an RPC that answers with a stream."""

        async def call(request: Any, context: Any) -> AsyncIterator[Response]:
            try:
                self.gate.check()
                # Closed at once when the client goes away, not when the collector comes by.
                async with contextlib.aclosing(_generator(handler, request, context, with_context)) as responses:
                    async for response in responses:
                        yield response
            except OrlopError as error:
                await _abort(context, name, request, error)
            except Exception as error:  # noqa: BLE001 - the boundary to the wire: nothing may leave it as a bare traceback
                await _abort_unexpected(context, name, request, error)

        return call

    def _wrap(self, name: str, handler: Unary, level: int) -> Callable[[Any, Any], Awaitable[Response]]:
        async def call(request: Any, context: Any) -> Response:
            began = time.perf_counter()
            try:
                self.gate.check()
                response = await handler(request)
            except OrlopError as error:
                await _abort(context, name, request, error)
            except Exception as error:  # noqa: BLE001 - the boundary to the wire: nothing may leave it as a bare traceback
                await _abort_unexpected(context, name, request, error)
            if log.isEnabledFor(level):
                # The answer goes out first.
                milliseconds = round((time.perf_counter() - began) * 1000, 3)
                asyncio.get_running_loop().call_soon(_log_answer, level, name, milliseconds, request, response)
            return response

        return call


def _log_answer(level: int, name: str, milliseconds: float, request: object, response: object) -> None:
    log.log(level, "%s %s", name, describe(request, response), extra={"rpc": name, "ms": milliseconds})


def _generator(handler: Streaming, request: Any, context: Any, with_context: bool) -> AsyncGenerator[Response, None]:
    made = handler(request, context) if with_context else handler(request)
    return cast(AsyncGenerator[Response, None], made)


async def finish(supervisor: Supervisor, name: str, work: Coroutine[Any, Any, T]) -> T:
    """Await work in a task of its own; when the caller is gone its failure is logged, for nobody else will hear of it."""
    abandoned = False

    async def settle() -> tuple[T | None, Exception | None]:
        try:
            return await work, None
        except Exception as error:  # noqa: BLE001 - handed to the caller below
            if abandoned:
                log.warning("%s failed after its client had gone: %s", name, error)
            return None, error

    task = supervisor.spawn(name, settle())
    try:
        result, error = await asyncio.shield(task)
    except BaseException:
        abandoned = True
        raise
    if error is not None:
        raise error
    return cast(T, result)


def describe(request: object, response: object = None) -> str:
    """Return the ids of an RPC for its log line; never a config, a command or a credential."""
    found = []
    for message in (request, response):
        for name in ID_FIELDS:
            value = getattr(message, name, "")
            if value:
                found.append(f"{name.removesuffix('_id')}={value}")
    image = getattr(request, "image", None)
    if isinstance(image, Message):
        found.append(f"image={getattr(image, 'image', '')}")
    metadata = getattr(getattr(request, "config", None), "metadata", None)
    if metadata is not None:
        found.append(f"name={metadata.name}")
    return " ".join(found)


async def _abort(context: Any, name: str, request: object, error: OrlopError) -> NoReturn:
    code = grpc.StatusCode[error.code]
    loud = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN)
    log.log(
        logging.ERROR if loud else logging.INFO,
        "%s %s: %s: %s",
        name,
        describe(request),
        error.code,
        error.diagnostics(),
        extra={"rpc": name, "code": error.code},
    )
    await context.abort(code, str(error))
    raise AssertionError("abort returned")


async def _abort_unexpected(context: Any, name: str, request: object, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    log.error(
        "%s %s: unexpected %s", name, describe(request), type(error).__name__, exc_info=error, extra={"rpc": name}
    )
    await context.abort(grpc.StatusCode.INTERNAL, f"{name}: unexpected {type(error).__name__}: {error}")
    raise AssertionError("abort returned")
