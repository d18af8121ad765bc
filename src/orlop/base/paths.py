"""Every path on disk is made here and drawn in docs/disk-layout.md. Test: tests/unit/base/test_paths.py."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RootPaths:
    """What survives a power loss: images, blobs, layers (``--root``)."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def images_db(self) -> Path:
        return self.root / "images.db"

    @property
    def blobs(self) -> Path:
        """Verified bytes: ``blobs/sha256/<hex>``."""
        return self.root / "content" / "blobs"

    @property
    def ingests(self) -> Path:
        """Writes in progress: ``ingests/<hex of digest>``; resumed or removed at start."""
        return self.root / "content" / "ingests"

    @property
    def layers(self) -> Path:
        """Applied layers: ``layers/<diffid hex>/{fs,layer.json}``; never changed after the rename that publishes
        them.
        """
        return self.root / "layers"

    @property
    def chains(self) -> Path:
        """Directories that take attributes from lower layers: ``chains/<chainid hex>/fs``, laid over all layers of
        the chain.
        """
        return self.root / "chains"

    @property
    def empty(self) -> Path:
        """An empty directory: the second lower layer of a view of one layer."""
        return self.root / "empty"

    @property
    def staging(self) -> Path:
        """Layers being applied; whatever is here at start is removed."""
        return self.root / "staging"

    @property
    def trash(self) -> Path:
        """Renamed here before a slow removal; whatever is here at start is removed."""
        return self.root / "trash"

    @property
    def containers(self) -> Path:
        """Writable layers: ``containers/<container id>/{upper,work}``."""
        return self.root / "containers"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePaths:
    """What survives the daemon and dies with the boot: pods, containers, monitors (``--state``)."""

    state: Path

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def pods_db(self) -> Path:
        return self.state / "pods.db"

    @property
    def pods(self) -> Path:
        return self.state / "pods"

    def pod(self, sandbox_id: str) -> Path:
        return self.pods / sandbox_id

    def monitor_socket(self, sandbox_id: str) -> Path:
        """The monitor's SEQPACKET socket. A bind is done relative to the directory, so 108 bytes are enough."""
        return self.pod(sandbox_id) / "monitor.sock"

    def exit_record(self, sandbox_id: str, container_id: str) -> Path:
        return self.pod(sandbox_id) / f"{container_id}.exit"

    def hosts(self, sandbox_id: str) -> Path:
        return self.pod(sandbox_id) / "hosts"

    def resolv_conf(self, sandbox_id: str) -> Path:
        return self.pod(sandbox_id) / "resolv.conf"

    def hostname(self, sandbox_id: str) -> Path:
        return self.pod(sandbox_id) / "hostname"

    def bundle(self, sandbox_id: str, container_id: str) -> Path:
        """What the program of another runtime gets of one container: ``config.json``, mount points, its pid file and log."""
        return self.pod(sandbox_id) / "bundles" / container_id

    def program_states(self, sandbox_id: str) -> Path:
        """The ``--root`` of such a program: what it remembers of the pod's containers."""
        return self.pod(sandbox_id) / "programs"

    def ipam(self) -> Path:
        """Address reservations of the built-in network: host-local's layout, ``ipam/<network>/<address>``."""
        return self.state / "ipam"

    def cni(self) -> Path:
        """What CNI plugins were asked to ADD, one file a pod: ``cni/<sandbox id>.json``; removed after their DEL."""
        return self.state / "cni"


RUN_LOGS = Path("/var/log/orlop")
"""Logs of `orlop run`: one directory a pod, made and removed with it. kubelet's pods log where kubelet says."""


def monitor_binary() -> Path:
    """Return the static monitor that is installed beside this package; ORLOP_MONITOR names another build (tests)."""
    override = os.environ.get("ORLOP_MONITOR")
    if override:
        return Path(override)
    return Path(__file__).resolve().parent.parent / "_bin" / "orlop-monitor"
