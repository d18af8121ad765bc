"""The only place that constructs the parts: from a configuration and two directories to a node. Test: tests/kernel/services/conftest.py."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from orlop.base import limits
from orlop.base.ids import DiffId
from orlop.base.keylock import Joiner
from orlop.base.paths import RootPaths, StatePaths, monitor_binary
from orlop.base.supervise import Supervisor
from orlop.kernel.cgroupfs import discover_mounted
from orlop.kernel.probe import Probe
from orlop.metadata.pods import PodStore
from orlop.monitor.program import seal_monitor
from orlop.monitor.userns import IdMapNamespaces
from orlop.network.bridge import DEFAULT_BRIDGE, DEFAULT_SUBNETS
from orlop.network.select import DEFAULT_BIN_DIRS, DEFAULT_CONF_DIR, open_network
from orlop.nri.plugins import Plugins
from orlop.nri.rules import Rules
from orlop.oci.cgroups.driver import DEFAULT_PARENT, detect
from orlop.oci.cgroups.rate import CpuRates
from orlop.oci.cgroups.stats import hugepage_sizes
from orlop.oci.kernelnames import CAPABILITIES
from orlop.services.containers.cdi import CdiCatalog
from orlop.services.containers.devices import host_devices
from orlop.services.containers.layer_usage import LayerUsages
from orlop.services.containers.spec_inputs import Host
from orlop.services.events import EventHub
from orlop.services.filesystems import container_mountpoint
from orlop.services.handlers.builtin import BuiltIn
from orlop.services.handlers.probe import probe_handlers
from orlop.services.handlers.protocol import Handlers
from orlop.services.images.parts import open_image_parts
from orlop.services.live import LivePods
from orlop.services.metrics.memory import MetricMemory
from orlop.services.node import Node
from orlop.services.options import Options
from orlop.services.views import Views
from orlop.snapshots.overlay import OverlaySnapshots


def wire(
    root: RootPaths,
    state: StatePaths,
    *,
    registry_config_path: Path | None,
    cgroup_driver: str = "cgroupfs",
    cgroup_parent: str = DEFAULT_PARENT,
    handlers: Handlers | None = None,
    bridge: str = DEFAULT_BRIDGE,
    subnets: Sequence[str] = DEFAULT_SUBNETS,
    cni_conf_dir: Path = DEFAULT_CONF_DIR,
    cni_bin_dirs: Sequence[Path] = DEFAULT_BIN_DIRS,
    options: Options | None = None,
    nri_registration_seconds: float = limits.NRI_REGISTRATION_SECONDS,
    nri_request_seconds: float = limits.NRI_REQUEST_SECONDS,
    nri_rules: Rules | None = None,
) -> Node:
    """Return a node over directories that this process holds the locks of; nothing has been recovered yet."""
    supervisor = Supervisor("orlopd")
    state.pods.mkdir(0o700, parents=True, exist_ok=True)
    pods = PodStore(state.pods_db)
    images = open_image_parts(
        root,
        registry_config_path=registry_config_path,
        supervisor=supervisor,
        layers_in_use=lambda: {DiffId(each) for each in pods.layers_in_use()},
    )
    snapshots = OverlaySnapshots(root, images.trash)
    probe = Probe(scratch=str(root.root))
    cgroups = detect(cgroup_driver, owner=str(state.state), default_parent=cgroup_parent)
    program = seal_monitor(monitor_binary())
    return Node(
        root=root,
        state=state,
        monitor_program=program,
        pods=pods,
        views=Views(pods),
        live=LivePods(),
        idmaps=IdMapNamespaces(program.path),
        events=EventHub(),
        snapshots=snapshots,
        layer_usages=LayerUsages(snapshots.count, container_mountpoint(root.root, root.containers)),
        metrics=MetricMemory(pods),
        cgroups=cgroups,
        cpu_rates=CpuRates(),
        network=open_network(
            ipam=state.ipam(),
            intents=state.cni(),
            conf_dir=cni_conf_dir,
            bin_dirs=cni_bin_dirs,
            bridge=bridge,
            subnets=subnets,
        ),
        images=images,
        probe=probe,
        host=describe_host(probe, cgroup_v2=cgroups.version == 2),
        cgroup_mounts=() if cgroups.version == 2 else cgroup_mounts(),
        clamp_limits=not probe.has("sys_resource"),
        cdi=CdiCatalog((options or Options()).cdi_dirs),
        nri=Plugins(
            supervisor,
            registration_seconds=nri_registration_seconds,
            request_seconds=nri_request_seconds,
            rules=nri_rules,
        ),
        options=options or Options(),
        handlers=handlers or Handlers(BuiltIn(), {}),
        rootfs_limits_missing=snapshots.quotas.missing(),
        supervisor=supervisor,
        running_sandboxes=Joiner(supervisor),
        creating_containers=Joiner(supervisor),
    )


async def find_handlers(state: StatePaths, programs: Mapping[str, Path | None], default: str) -> Handlers:
    """Return the handlers of the configuration: name -> program, None for orlop itself. Their programs are asked what they can."""
    mounted = discover_mounted()
    hybrid = any({"memory", "cpu"} & set(each.controllers) for each in mounted if each.version == 1)
    return await probe_handlers(
        programs,
        default=default,
        state=state.state,
        hidden=tuple(each.mountpoint for each in mounted if each.version == 2) if hybrid else (),
        clamp_limits=not Probe().has("sys_resource"),
    )


def describe_host(probe: Probe, *, cgroup_v2: bool) -> Host:
    """Return what this node is and can, for the runtime specs."""
    return Host(
        capabilities=grantable_capabilities(),
        hostname=os.uname().nodename,
        cgroup_v2=cgroup_v2,
        apparmor=probe.has("apparmor"),
        selinux=probe.has("selinux"),
        recursive_readonly=probe.has("recursive_read_only"),
        idmapped_mounts=probe.has("idmapped_mounts"),
        devices=host_devices(),
        hugepage_sizes=hugepage_sizes(),
    )


def grantable_capabilities() -> tuple[str, ...]:
    """Return the capabilities of this process's bounding set, by number: nobody can give more than he has."""
    status = Path("/proc/self/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return tuple(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def cgroup_mounts() -> tuple[tuple[str, str], ...]:
    """Return (name, mount point) of each v1 hierarchy, as a container will see it below /sys/fs/cgroup."""
    return tuple(
        (os.path.basename(each.mountpoint), each.mountpoint) for each in discover_mounted() if each.version == 1
    )
