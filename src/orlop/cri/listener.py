"""A gRPC server on a unix socket: where it listens, with which options, and how a service's RPCs become handlers.

Owns the socket file. Services come as objects with one coroutine (or async generator) an RPC, named as in the .proto; an RPC without
one answers UNIMPLEMENTED by name. Which services there are is said in server.py. Test: tests/unit/cri/test_listener.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from orlop.base import limits
from orlop.base.errors import FailedPrecondition, InvalidArgument, Unimplemented
from orlop.base.supervise import Supervisor
from orlop.cri.interceptors import Gate, Surroundings

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
STOP_SECONDS = 1.0
"""How long calls that are under way may take when the daemon ends; their work goes on in tasks and is recovered at the next start."""

OPTIONS = (
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # One machine, one kernel: there is no bandwidth-delay product to measure and nothing to keep alive.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    # Tracing and channelz keep records a call that nobody here reads.
    ("grpc.enable_channelz", 0),
    ("grpc.max_channel_trace_event_memory_per_node", 0),
)


class Service:
    """One gRPC service: which of its handlers change something, and which end with their caller."""

    descriptor: ServiceDescriptor
    changing: frozenset[str] = frozenset()
    """RPCs that are finished even if the client goes away; the others only read, or are worthless without their caller."""
    loud: frozenset[str] = frozenset()
    """RPCs that only read but are logged at INFO, because people cause them."""
    with_context: frozenset[str] = frozenset()
    """Streaming RPCs whose handler takes the call's context too: they read or send metadata."""


class Listener:
    """Listens from ``start`` on; answers UNAVAILABLE until ``open_gate``."""

    def __init__(self, services: tuple[Service, ...], listen: str, supervisor: Supervisor) -> None:
        self.path = socket_path(listen)
        self.gate = Gate()
        self._server = grpc.aio.server(options=OPTIONS)
        surroundings = Surroundings(gate=self.gate, supervisor=supervisor)
        self._server.add_generic_rpc_handlers(tuple(generic_handler(each, surroundings) for each in services))

    async def start(self) -> None:
        """Take the socket and listen. Raises FailedPrecondition when another daemon answers there."""
        take_socket(self.path)
        bound = self._server.add_insecure_port(f"unix://{self.path}")
        if not bound:
            raise FailedPrecondition(f"socket {self.path}: cannot listen")
        self.path.chmod(SOCKET_MODE)
        await self._server.start()

    def open_gate(self) -> None:
        """Let RPCs in: recovery is done."""
        self.gate.open = True

    async def stop(self) -> None:
        """Take no more calls; give those that run a moment; remove the socket."""
        self.gate.open = False
        await self._server.stop(STOP_SECONDS)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def socket_path(listen: str) -> Path:
    """Return the path of ``unix:///PATH``. Raises InvalidArgument for another form, or for one that the kernel can't take."""
    scheme, separator, path = listen.partition("://")
    if separator != "://" or scheme != "unix" or not path.startswith("/"):
        raise InvalidArgument(f"listen {listen!r}: is not unix:///PATH")
    if len(path.encode()) > limits.UNIX_PATH_BYTES:
        raise InvalidArgument(f"listen {listen!r}: the path is longer than {limits.UNIX_PATH_BYTES} bytes")
    return Path(path)


def take_socket(path: Path) -> None:
    """Make the directory; remove a socket that nobody answers. gRPC would unlink a living daemon's socket without asking."""
    try:
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise FailedPrecondition(
            f"socket {path}: its directory cannot be made: {error.strerror} ({error.filename})"
        ) from error
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FailedPrecondition(f"socket {path}: something that is not a socket is in its place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            log.info("removing stale socket %s", path)
            path.unlink()
            return
        except FileNotFoundError:
            return
    raise FailedPrecondition(f"socket {path}: another process answers there")


def generic_handler(service: Service, surroundings: Surroundings) -> grpc.GenericRpcHandler[Any, Any]:
    """Return the handlers of a service, one an RPC of its descriptor."""
    handlers = {method.name: _handler(service, method, surroundings) for method in service.descriptor.methods}
    return grpc.method_handlers_generic_handler(service.descriptor.full_name, handlers)


def _handler(service: Service, method: MethodDescriptor, around: Surroundings) -> grpc.RpcMethodHandler[Any, Any]:
    name = method.name
    coders: dict[str, Any] = {
        "request_deserializer": GetMessageClass(method.input_type).FromString,
        "response_serializer": _serialize,
    }
    own: Callable[..., Any] | None = getattr(service, name, None)
    if method.server_streaming and own is not None:
        make = (
            grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(around.streaming(name, own, with_context=name in service.with_context), **coders)
    if own is None:
        refusal = around.reading(name, _refusing(name))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(refusal, **coders)
        return grpc.unary_unary_rpc_method_handler(refusal, **coders)
    if name in service.changing:
        return grpc.unary_unary_rpc_method_handler(around.changing(name, own), **coders)
    level = logging.INFO if name in service.loud else logging.DEBUG
    return grpc.unary_unary_rpc_method_handler(around.reading(name, own, level), **coders)


def _serialize(response: Message | bytes) -> bytes:
    """Take a response as it is, or as the bytes that it was serialized to before (entries.py)."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def _refusing(name: str) -> Callable[[Any], Coroutine[Any, Any, Message]]:
    async def refuse(_: Any) -> Message:
        raise Unimplemented(f"{name}: orlop does not implement this call yet")

    return refuse
