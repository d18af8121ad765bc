"""What a runtime handler does for a container, and which handlers this node has.

A handler makes containers and commands; everything else is the same for all: monitor, logs, exits, cgroups, stats. Two kinds:
``builtin.py`` (plans of orlop's own) and ``program.py`` (plans that run another runtime's program). Test: tests/cri/test_handlers.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from orlop.base.errors import FailedPrecondition, Internal, InvalidArgument, OrlopError
from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.monitor.client import MonitorError
from orlop.oci.cgroups.handles import ContainerCgroup, ExecCgroup
from orlop.oci.ops import Fd
from orlop.security.profiles import Profile
from orlop.services.containers.spec import BuiltSpec
from orlop.services.containers.spec_inputs import Host
from orlop.specs.pod import LinuxResources
from orlop.specs.runtime import Resources

if TYPE_CHECKING:
    from orlop.services.live import LivePod
    from orlop.services.node import Node

BUILT_IN = "orlop"


class ProgramError(Internal):
    """The program of another runtime failed: which, at what, and what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that a container's launch is planned from. The fds stay their owners'; what a handler opens it appends to ``opened``."""

    pod: LivePod
    row: ContainerRow
    built: BuiltSpec
    cgroup: ContainerCgroup
    profile: Profile | None
    rootfs: int
    mounts: Mapping[Fd, int]
    """Image volumes and user namespaces of id-mapped mounts, by label."""
    opened: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the monitor's ``create`` takes, and the runtime spec that the row keeps."""

    plan: bytes
    fds: tuple[int, ...]
    spec_json: bytes
    explain: Callable[[MonitorError], OrlopError | None]
    """Why the launch failed; None: the monitor's error says it."""


@dataclass(slots=True, kw_only=True)
class PlannedExec:
    """What the monitor's ``exec`` takes. ``close`` when all is over: files that the handler made for it go."""

    plan: bytes
    fds: tuple[int, ...]
    explain: Callable[[MonitorError], OrlopError | None]
    owned: list[int] = field(default_factory=list)
    clean: Callable[[], None] = lambda: None
    resize: Callable[[int, int], None] | None = None
    """Sets the terminal's size while it stands at its gate; None: the monitor can do it."""

    def close(self) -> None:
        while self.owned:
            os.close(self.owned.pop())
        self.clean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a handler can do beyond what all can."""

    recursive_read_only: bool = False
    idmapped_mounts: bool = False


class Handler(Protocol):
    """One way to make containers."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    @property
    def unavailable(self) -> str:
        """Why it cannot be used; empty: it can."""

    @property
    def abilities(self) -> Abilities: ...

    def describe(self) -> dict[str, object]:
        """Return facts for people: which program, which version."""

    def plan(self, node: Node, prepared: Prepared) -> Planned:
        """Plan a container's launch. Raises InvalidArgument, Unimplemented, Internal; what it made on disk ``discard`` removes."""

    def exec_cgroup(self, node: Node, row: ContainerRow, exec_id: str) -> ExecCgroup:
        """Make the cgroup of one exec session; node.cgroups.remove_exec removes it."""

    def plan_exec(
        self,
        node: Node,
        row: ContainerRow,
        cgroup: ExecCgroup,
        exec_id: str,
        command: tuple[str, ...],
        *,
        tty: bool,
        gate: bool = False,
    ) -> PlannedExec:
        """Plan one more process in a running container. ``gate``: it does not run before the monitor's ``start``."""

    async def start(self, node: Node, pod: LivePod, row: ContainerRow) -> int:
        """Start a created container; return when (CLOCK_REALTIME, ns). Raises MonitorError, ProgramError, Unavailable; then it does not run."""

    async def signal(self, node: Node, pod: LivePod, row: ContainerRow, number: int) -> None:
        """Send a signal to a container's init. Raises MonitorError ESRCH when it has ended."""

    async def update(self, node: Node, pod: LivePod, row: ContainerRow, resources: LinuxResources | Resources) -> None:
        """Change limits of a living container, all or none. Raises InvalidArgument, FailedPrecondition, NotFound, Internal."""

    async def discard(self, node: Node, row: ContainerRow) -> None:
        """Forget a container whose processes are gone, or that was never fully made. Idempotent."""


class Handlers:
    """The handlers of this node by name; constructed once."""

    def __init__(self, builtin: Handler, others: Mapping[str, Handler], *, default: str = BUILT_IN) -> None:
        self._by_name: dict[str, Handler] = {BUILT_IN: builtin, **others}
        self._default = default or BUILT_IN

    def names(self) -> Iterator[str]:
        """All that may be asked for: "" first, which is the default one."""
        yield ""
        yield from self._by_name

    def named(self, name: str, subject: str) -> Handler:
        """Return the handler that a pod asks for. Raises InvalidArgument (unknown), FailedPrecondition (its program cannot be used)."""
        handler = self._by_name.get(name or self._default)
        if handler is None:
            known = ", ".join(repr(each) for each in self.names())
            raise InvalidArgument(f"{subject}: runtime_handler {name!r} is not one of {known}")
        if handler.unavailable:
            raise FailedPrecondition(f"{subject}: runtime_handler {handler.name!r}: {handler.unavailable}")
        return handler

    def of(self, sandbox: SandboxRow) -> Handler:
        """Return the handler that made a pod. Raises FailedPrecondition when the configuration has it no more."""
        handler = self._by_name.get(sandbox.made_by)
        if handler is None:
            raise FailedPrecondition(
                f"sandbox {sandbox.id}: was made by handler {sandbox.made_by!r}, which the configuration has no more"
            )
        return handler

    def find(self, sandbox: SandboxRow) -> Handler | None:
        """As ``of``, None when the configuration has it no more: what can be done without it goes on."""
        return self._by_name.get(sandbox.made_by)

    def get(self, name: str) -> Handler:
        return self._by_name[name or self._default]


def host_for(handler: Handler, host: Host) -> Host:
    """Return the host as far as the handler can use it."""
    abilities = handler.abilities
    return msgspec.structs.replace(
        host,
        recursive_readonly=host.recursive_readonly and abilities.recursive_read_only,
        idmapped_mounts=host.idmapped_mounts and abilities.idmapped_mounts,
    )
