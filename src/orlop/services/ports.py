"""What the use cases of pods need from the parts that make networks: a Protocol, so that recovery and tests can stand on any of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

import msgspec

from orlop.base.ids import SandboxId
from orlop.monitor.client import PodNamespaces
from orlop.specs.pod import SandboxConfig


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's place in the network: what readers want of it, and the part's own record for the way back."""

    addresses: tuple[str, ...]
    """Textual, the primary one first."""
    record: msgspec.Raw
    """JSON of the part's own result; stored with the sandbox, handed back to detach."""


class PodNetworkStatus(NamedTuple):
    """CRI's NetworkReady condition."""

    ready: bool
    reason: str = ""
    message: str = ""


class PodNetwork(Protocol):
    """Attach is called once a pod; detach any number of times, also after an attach that failed or never ran."""

    async def attach(
        self, sandbox_id: SandboxId, namespaces: PodNamespaces, config: SandboxConfig, netns_path: str
    ) -> Attached:
        """Connect a pod's network namespace. On an error half of it may be done: detach undoes that."""
        ...

    async def detach(
        self, sandbox_id: SandboxId, record: msgspec.Raw | None, config: SandboxConfig, netns_path: str
    ) -> None:
        """Give back everything that the pod has of the network; idempotent; ``record`` None: attach did not return."""
        ...

    async def reconcile(self, live: Collection[SandboxId]) -> None:
        """Remove what belongs to no living sandbox."""
        ...

    async def status(self) -> PodNetworkStatus:
        """Say whether attach can be expected to work."""
        ...
