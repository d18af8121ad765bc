"""Which network a pod gets: CNI plugins while their directory has a configuration, else the built-in bridge.

The choice is made at each attach. A pod is detached from the network that it was attached to, whatever the directory says by
then; when that is not known (the daemon died before it was stored) both are asked, since a network that has nothing of the
pod does nothing. Fulfils attachment.Network as the two networks do. Test: tests/kernel/network/test_select.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from orlop.base.errors import OrlopError
from orlop.network.attachment import Attachment, AttachRequest, Network, NetworkStatus
from orlop.network.bridge import DEFAULT_BRIDGE, DEFAULT_SUBNETS, BridgeNetwork
from orlop.network.cni import RESULTS, CniNetwork

log = logging.getLogger(__name__)

DEFAULT_CONF_DIR: Final = Path("/etc/cni/net.d")
DEFAULT_BIN_DIRS: Final = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))


class NetworkSelector:
    """The network of all pods of a daemon."""

    def __init__(self, *, bridge: BridgeNetwork, cni: CniNetwork) -> None:
        self.bridge = bridge
        self.cni = cni

    def _current(self) -> Network:
        return self.cni if self.cni.present() else self.bridge

    async def attach(self, request: AttachRequest) -> Attachment:
        """Attach a pod. On failure what was made is taken back; a detach afterwards does no harm."""
        return await self._current().attach(request)

    async def detach(self, request: AttachRequest, attachment: Attachment | None = None) -> None:
        """Take back a pod's network, whole or half; repeating it is fine."""
        if self.cni.holds(request.sandbox_id) or (attachment is not None and attachment.kind == "cni"):
            await self.cni.detach(request, attachment)
        if self.bridge.holds(request.sandbox_id):
            await self.bridge.detach(request, attachment)

    async def check(self, request: AttachRequest, attachment: Attachment) -> None:
        """Raise FailedPrecondition when a pod's network is not as attach left it."""
        await (self.cni if attachment.kind == "cni" else self.bridge).check(request, attachment)

    async def reconcile(self, live: AbstractSet[str]) -> None:
        """Take back what belongs to no live sandbox, in both networks.

        A network that cannot be made ready must not keep the daemon from serving the pods that run: it is logged, status says it
        too, and what it left is found by the next reconcile.
        """
        await self.cni.reconcile(live)
        # A daemon that uses plugins only never makes the bridge; but it may have used it before.
        if not self.cni.present() or self.bridge.made():
            try:
                await self.bridge.reconcile(live)
            except OrlopError as error:
                log.error("%s", error)

    async def sweep(self, known: AbstractSet[str]) -> None:
        """Try again what failed, in both networks."""
        await self.cni.sweep(known)
        await self.bridge.sweep(known)

    async def status(self) -> NetworkStatus:
        """Say whether the next pod can be attached: CRI's NetworkReady."""
        return await self._current().status()

    def pod_sysctls(self) -> Mapping[str, str]:
        """Return what the namespace of the next pod must be told before its interface is there."""
        return self._current().pod_sysctls()

    def set_pod_ranges(self, ranges: Sequence[str]) -> None:
        """Take in kubelet's pod_cidr, for both networks: the configuration directory may change later."""
        self.cni.set_pod_ranges(ranges)
        self.bridge.set_pod_ranges(ranges)

    async def close(self) -> None:
        """Finish what is under way; pods keep their network."""
        await self.bridge.close()


def open_network(
    *,
    ipam: Path,
    intents: Path,
    conf_dir: Path,
    bin_dirs: Sequence[Path],
    bridge: str = DEFAULT_BRIDGE,
    subnets: Sequence[str] = DEFAULT_SUBNETS,
    results: Path = RESULTS,
) -> NetworkSelector:
    """Make the selector of a daemon: ``ipam`` is StatePaths.ipam(), ``intents`` StatePaths.cni()."""
    return NetworkSelector(
        bridge=BridgeNetwork(ipam_directory=ipam, bridge=bridge, subnets=subnets),
        cni=CniNetwork(conf_dir=conf_dir, bin_dirs=bin_dirs, intents=intents, results=results),
    )
