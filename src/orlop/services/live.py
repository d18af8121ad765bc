"""What this daemon process holds of each living pod: its monitor's connection, namespace fds, and who waits for which exit.

None of it is state that must survive: after a restart recovery.py makes it anew from the monitors. Every fd here has one
owner, the LivePod, and is closed by ``close``. Test: tests/unit/services/test_live.py.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from orlop.base.errors import FailedPrecondition
from orlop.base.ids import ContainerId, SandboxId
from orlop.monitor.client import Exited, MonitorClient
from orlop.oci.ops import Fd


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPlan:
    """An exec's plan as bytes, with the names of the fds that it takes, and the runtime spec that it was compiled from."""

    spec: msgspec.Raw
    plan: bytes
    labels: tuple[Fd, ...]


ExecKey = tuple[str, tuple[str, ...], bool, bool, int]
"""Container, command, terminal, gate, number of cgroup fds."""


@dataclass(slots=True, kw_only=True)
class LivePod:
    """A pod whose monitor answers."""

    id: SandboxId
    monitor: MonitorClient
    netns_fd: int = -1
    netlink: socket.socket | None = None
    """A NETLINK_ROUTE socket inside the pod's network namespace; None with host network."""
    shm_fd: int = -1
    """The pod's /dev/shm as a detached mount; -1 when the pod uses the host's IPC namespace."""
    init_pid: int = 0
    """PID 1 of a shared PID namespace."""
    exits: dict[ContainerId, asyncio.Event] = field(default_factory=dict)
    unsaved_exits: dict[ContainerId, Exited] = field(default_factory=dict)
    """Exits that the monitor has told and that are not in the store yet: until they are, nothing else may know them."""
    starting: set[ContainerId] = field(default_factory=set)
    """Containers whose start has not been told yet."""
    exec_exits: dict[str, asyncio.Future[Exited]] = field(default_factory=dict)
    exec_plans: dict[ExecKey, KeptPlan] = field(default_factory=dict)
    """The latest execs' plans, the oldest first; at most limits.EXEC_PLANS_KEPT."""

    def exit_of(self, container_id: ContainerId) -> asyncio.Event:
        """Return the event that is set once the container's exit has been taken into the store."""
        return self.exits.setdefault(container_id, asyncio.Event())

    def close(self) -> None:
        """Close the connection and every fd; the monitor itself goes on."""
        self.monitor.close()
        for fd in (self.netns_fd, self.shm_fd):
            if fd >= 0:
                os.close(fd)
        self.netns_fd = self.shm_fd = -1
        if self.netlink is not None:
            self.netlink.close()
            self.netlink = None
        for waiter in self.exec_exits.values():
            waiter.cancel()


class LivePods:
    """The living pods of this daemon by sandbox id."""

    def __init__(self) -> None:
        self._pods: dict[SandboxId, LivePod] = {}

    def add(self, pod: LivePod) -> None:
        self._pods[pod.id] = pod

    def get(self, sandbox_id: SandboxId) -> LivePod | None:
        return self._pods.get(sandbox_id)

    def need(self, sandbox_id: SandboxId) -> LivePod:
        """Return the living pod; raises FailedPrecondition when its monitor is gone."""
        pod = self._pods.get(sandbox_id)
        if pod is None:
            raise FailedPrecondition(f"sandbox {sandbox_id}: is not ready, its monitor is gone")
        return pod

    def drop(self, sandbox_id: SandboxId) -> None:
        pod = self._pods.pop(sandbox_id, None)
        if pod is not None:
            pod.close()

    def __iter__(self) -> Iterator[LivePod]:
        return iter(tuple(self._pods.values()))
