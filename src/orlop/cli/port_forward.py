"""orlop port-forward: listen on this machine; each connection is one to localhost inside the pod. Test: tests/cri/test_cli_human.py.

Each connection is a Forward conversation of its own with a thread for each direction; what the slower side has not taken waits in the
kernel's buffers. A connection that cannot be made is said and closed; the others go on.
"""

from __future__ import annotations

import argparse
import queue
import re
import selectors
import socket
import sys
import threading
from contextlib import ExitStack, suppress
from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.cli.client import Client
from orlop.cli.find import find_container, find_sandbox
from orlop.specs.cri_gen import orlop_pb2

READ_BYTES: Final = 64 << 10
WAITING_MESSAGES: Final = 8
WAIT_SECONDS: Final = 0.5
_PORTS: Final = re.compile(r"(?:(\d{0,5}):)?(\d{1,5})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="POD|CONTAINER")
    add("ports", nargs="+", metavar="[LOCAL:]PORT", help="8080:80; :80 takes any free port; 80 is 80:80")
    add("--bind", default="127.0.0.1", metavar="ADDRESS", help="listen on this address (default 127.0.0.1)")


def run(options: argparse.Namespace) -> int:
    wanted = [parse_ports(each) for each in options.ports]
    with Client(options.address) as client, ExitStack() as undo, selectors.DefaultSelector() as selector:
        pod_id = _pod(client, options.name)
        for local, port in wanted:
            listener = undo.enter_context(_listen(options.bind, local))
            selector.register(listener, selectors.EVENT_READ, port)
            host = f"[{options.bind}]" if ":" in options.bind else options.bind
            print(f"Forwarding from {host}:{listener.getsockname()[1]} -> {port}", flush=True)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                accepted, _ = key.fileobj.accept()
                carry = threading.Thread(target=_carry, args=(client, pod_id, key.data, accepted), daemon=True)
                carry.start()


def parse_ports(text: str) -> tuple[int, int]:
    """Return (local, remote) of ``8080:80``, ``:80`` (local 0: any) or ``80``. Raises InvalidArgument."""
    match = _PORTS.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text!r} is not [LOCAL:]PORT")
    remote = int(match[2])
    local = remote if match[1] is None else int(match[1] or 0)
    if not 0 < remote <= 65535 or local > 65535:
        raise InvalidArgument(f"{text!r}: a port is between 1 and 65535")
    return local, remote


def _pod(client: Client, name: str) -> str:
    try:
        return str(find_container(client, name).pod_sandbox_id)
    except NotFound:
        return str(find_sandbox(client, name).id)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        raise FailedPrecondition(f"{address}:{port}: cannot listen: {(error.strerror or str(error)).lower()}") from None


def _carry(client: Client, pod_id: str, port: int, local: socket.socket) -> None:
    """Carry one connection to its end."""
    outgoing: queue.Queue[orlop_pb2.ForwardInput | None] = queue.Queue(WAITING_MESSAGES)
    over = threading.Event()

    def put(message: orlop_pb2.ForwardInput | None) -> None:
        while not over.is_set():
            with suppress(queue.Full):
                outgoing.put(message, timeout=WAIT_SECONDS)
                return

    def read() -> None:
        # A connection that breaks is told by the missing end.
        with suppress(OSError):
            while data := local.recv(READ_BYTES):
                put(orlop_pb2.ForwardInput(data=data))
            put(orlop_pb2.ForwardInput(end=True))
        put(None)

    put(orlop_pb2.ForwardInput(start=orlop_pb2.ForwardStart(pod_sandbox_id=pod_id, port=port)))
    threading.Thread(target=read, daemon=True).start()
    try:
        for reply in client.node.Forward(iter(outgoing.get, None)):
            if reply.data:
                local.sendall(reply.data)
            if reply.end:
                local.shutdown(socket.SHUT_WR)
    except OrlopError as error:
        print(f"orlop port-forward: {error}", file=sys.stderr, flush=True)
    except OSError:
        pass  # whoever connected here is gone
    finally:
        over.set()
        # Wakes gRPC's reader of the queue and ours of the socket.
        with suppress(queue.Full):
            outgoing.put_nowait(None)
        with suppress(OSError):
            local.shutdown(socket.SHUT_RDWR)
        local.close()
