"""What a streaming session was asked for, checked when the URL is given out: Exec, Attach and PortForward answer with a URL, and the
session begins when a client comes to it.

Test: tests/cri/test_streaming.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from orlop.base import limits
from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.base.ids import ContainerId, SandboxId
from orlop.services.node import Node
from orlop.specs.pod import ContainerState


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecWanted:
    container_id: ContainerId
    command: tuple[str, ...]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachWanted:
    container_id: ContainerId
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardWanted:
    sandbox_id: SandboxId
    ports: tuple[int, ...]
    """Only for clients that do not name a port with each connection."""


Wanted = ExecWanted | AttachWanted | ForwardWanted


def want_exec(
    node: Node, container_id: str, command: tuple[str, ...], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
) -> ExecWanted:
    """Check an exec session. Raises NotFound, InvalidArgument, FailedPrecondition (the container does not run)."""
    row = node.pods.container(container_id)
    if not command:
        raise InvalidArgument(f"container {row.id}: exec: cmd is empty")
    _check_streams(f"container {row.id}: exec", stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
    if row.state is not ContainerState.RUNNING:
        raise FailedPrecondition(f"container {row.id}: exec: it is {row.state.name.lower()}, not running")
    return ExecWanted(container_id=row.id, command=command, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)


def want_attach(node: Node, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> AttachWanted:
    """Check an attach session. Raises NotFound, InvalidArgument (also a tty that differs from the container's), FailedPrecondition."""
    row = node.pods.container(container_id)
    _check_streams(f"container {row.id}: attach", stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
    if row.finished_at or not row.created_at:
        raise FailedPrecondition(f"container {row.id}: cannot be attached to, it is {row.state.name.lower()}")
    return AttachWanted(container_id=row.id, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)


def want_forward(node: Node, sandbox_id: str, ports: tuple[int, ...]) -> ForwardWanted:
    """Check a port-forward session. Raises NotFound, InvalidArgument (a port), FailedPrecondition (the pod is not ready)."""
    row = node.pods.sandbox(sandbox_id)
    if len(ports) > limits.FORWARD_PORTS:
        raise InvalidArgument(f"sandbox {row.id}: port-forward: {len(ports)} ports, at most {limits.FORWARD_PORTS}")
    for port in ports:
        if not 0 < port <= 65535:
            raise InvalidArgument(f"sandbox {row.id}: port-forward: port {port} is not between 1 and 65535")
    if row.stopped_at or not row.ready_at:
        raise FailedPrecondition(f"sandbox {row.id}: port-forward: it is not ready")
    return ForwardWanted(sandbox_id=row.id, ports=ports)


def _check_streams(subject: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> None:
    if tty and stderr:
        raise InvalidArgument(f"{subject}: tty and stderr exclude each other: a terminal has one output")
    if not (stdin or stdout or stderr):
        raise InvalidArgument(f"{subject}: one of stdin, stdout and stderr must be asked for")
