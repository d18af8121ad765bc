"""The command line's connection to the daemon: synchronous gRPC on the unix socket, and errors in words.

Owns the channel; knows no command. The only file outside cri/ that imports grpc. ``Client.runtime``, ``.images`` and ``.node``
have one callable an RPC, made from the service descriptors, named as in the .proto files. Test: tests/unit/cli/test_client.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from orlop.base import errors, limits
from orlop.specs.cri_gen import api_pb2, orlop_pb2

DEFAULT_ADDRESS = "unix:///run/orlop/orlop.sock"
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_BYTES),
    # A unix socket has no proxy and no name to look up; the service config query would be a DNS request.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.default_authority", "localhost"),
)
NOT_CONNECTED = ("failed to connect to all addresses", "connections to all backends failing")
"""How gRPC begins when nobody listens; a daemon that can't connect to a registry is UNAVAILABLE as well."""
ERRORS_BY_CODE = {cls.code: cls for cls in errors.OrlopError.__subclasses__()}


class Stub:
    """One attribute an RPC of a service; calling it with a request gives the response (or an iterator of responses).

    With an ``address``, failures come as errors of base.errors; without, as grpc made them (and the channel may be grpc.aio's).
    """

    def __init__(self, channel: Any, service: ServiceDescriptor, address: str = "") -> None:
        self._channel = channel
        self._service = service
        self._address = address

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = self._service.methods_by_name.get(name)
        if method is None:
            raise AttributeError(f"{self._service.full_name} has no RPC {name}")
        makers: dict[tuple[bool, bool], Callable[..., Any]] = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }
        call: Callable[..., Any] = makers[(method.client_streaming, method.server_streaming)](
            f"/{self._service.full_name}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        if self._address:
            call = _worded_stream(call, self._address) if method.server_streaming else _worded(call, self._address)
        self.__dict__[name] = call
        return call


def _worded(call: Callable[..., Any], address: str) -> Callable[..., Any]:
    def worded(*arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except grpc.RpcError as error:
            raise in_words(error, address) from error

    return worded


class Replies(Iterator[Any]):
    """The responses of one streaming call, with errors of base.errors; ``cancel`` ends it, from any thread."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise in_words(error, self._address) from error

    def cancel(self) -> None:
        self._call.cancel()


def _worded_stream(call: Callable[..., Any], address: str) -> Callable[..., Replies]:
    return lambda *arguments, **options: Replies(call(*arguments, **options), address)


class Client:
    """A connection to one daemon; use it in a ``with`` block. ``address`` is ``unix:///PATH`` or a plain path."""

    def __init__(self, address: str = DEFAULT_ADDRESS) -> None:
        self.address = address if "://" in address else f"unix://{address}"
        self._channel = grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        services = api_pb2.DESCRIPTOR.services_by_name
        self.runtime = Stub(self._channel, services["RuntimeService"], self.address)
        self.images = Stub(self._channel, services["ImageService"], self.address)
        self.node = Stub(self._channel, orlop_pb2.DESCRIPTOR.services_by_name["Node"], self.address)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


def in_words(error: grpc.RpcError, address: str) -> errors.OrlopError:
    """Return the error of base.errors that the daemon raised, or one that says that no daemon answers."""
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(NOT_CONNECTED):
        # What gRPC says is long and repeats itself; only the reason at its end is news.
        reason = "you may not use its socket" if "denied" in details else "is it running?"
        return errors.Unavailable(f"no orlopd answers at {address}: {reason}")
    return ERRORS_BY_CODE.get(code.name, errors.Internal)(details or code.name.lower())
