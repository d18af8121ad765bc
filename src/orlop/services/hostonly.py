"""A network for pods that use the host's: there is nothing to attach them to, and it says so. Test: tests/kernel/services/test_sandboxes.py."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from orlop.base.errors import Unimplemented
from orlop.base.ids import SandboxId
from orlop.monitor.client import PodNamespaces
from orlop.services.ports import Attached, PodNetworkStatus
from orlop.specs.pod import SandboxConfig


class HostOnlyNetwork:
    """A PodNetwork that refuses pods with a network namespace of their own."""

    async def attach(
        self, sandbox_id: SandboxId, namespaces: PodNamespaces, config: SandboxConfig, netns_path: str
    ) -> Attached:
        raise Unimplemented(
            f"sandbox {config.metadata.name}: this node has no pod network; only namespace_options.network NODE can be run"
        )

    async def detach(
        self, sandbox_id: SandboxId, record: msgspec.Raw | None, config: SandboxConfig, netns_path: str
    ) -> None:
        """Nothing was attached, so there is nothing to give back."""

    async def reconcile(self, live: Collection[SandboxId]) -> None:
        """Nothing was attached, so nothing can be left over."""

    async def status(self) -> PodNetworkStatus:
        """Host networking works; the message says what does not."""
        return PodNetworkStatus(ready=True, reason="HostOnly", message="only pods on the host's network can be run")
