"""The node: everything that a use case may call, constructed once by the daemon and passed as first argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from orlop.base.ids import ContainerId, SandboxId
from orlop.base.keylock import Joiner, KeyLock
from orlop.base.paths import RootPaths, StatePaths
from orlop.base.supervise import Supervisor
from orlop.kernel.probe import Probe
from orlop.metadata.pods import PodStore
from orlop.monitor.program import MonitorProgram
from orlop.monitor.userns import IdMapNamespaces
from orlop.network.attachment import Network
from orlop.nri.plugins import Plugins
from orlop.oci.cgroups.driver import CgroupDriver
from orlop.oci.cgroups.rate import CpuRates
from orlop.services.containers.cdi import CdiCatalog
from orlop.services.containers.layer_usage import LayerUsages
from orlop.services.containers.spec_inputs import Host
from orlop.services.events import EventHub
from orlop.services.handlers.protocol import Handlers
from orlop.services.images.parts import ImageParts
from orlop.services.live import LivePods
from orlop.services.metrics.memory import MetricMemory
from orlop.services.options import Options
from orlop.services.views import Views
from orlop.snapshots.overlay import OverlaySnapshots


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Dependencies of the use cases. Mutable state lives in the objects, each with one owner."""

    root: RootPaths
    state: StatePaths
    monitor_program: MonitorProgram
    pods: PodStore
    views: Views
    live: LivePods
    idmaps: IdMapNamespaces
    """User namespaces for id-mapped mounts."""
    events: EventHub
    snapshots: OverlaySnapshots
    layer_usages: LayerUsages
    metrics: MetricMemory
    cgroups: CgroupDriver
    cpu_rates: CpuRates
    network: Network
    images: ImageParts
    probe: Probe
    """What this kernel can do."""
    host: Host
    """What this node is and can, for the runtime specs."""
    cgroup_mounts: tuple[tuple[str, str], ...]
    """cgroup v1: (name, mount point) of each hierarchy that a container may see; empty on v2."""
    clamp_limits: bool
    """Nobody here may raise limits (no CAP_SYS_RESOURCE): take what is allowed instead of failing."""
    cdi: CdiCatalog
    """Descriptions of devices by their vendors."""
    nri: Plugins
    """None connected, and none can be: NRI is off, or nobody came."""
    options: Options
    """What the administrator decided for all pods."""
    handlers: Handlers
    rootfs_limits_missing: str
    """Why writable layers cannot be limited here; empty: they can."""
    supervisor: Supervisor
    running_sandboxes: Joiner[SandboxId]
    creating_containers: Joiner[ContainerId]
    locks: KeyLock = field(default_factory=KeyLock)
    """One lock a sandbox or container id: verbs on one object run one after the other."""
