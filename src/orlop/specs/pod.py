"""Domain types of pods and containers: what CRI says, as frozen values that the rest of the daemon works with.

cri/convert makes them from protobuf and back; services/ use and store them; nobody else sees protobuf. Field names follow
cri/api.proto where they mean the same. Zero, empty and None mean "not given", as in proto3. Times are nanoseconds since the
epoch, sizes bytes. They are msgspec structs because the store keeps them as JSON. Test: tests/unit/specs/test_pod.py.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from orlop.base.ids import ContainerId, SandboxId


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Common options of all domain types."""


class NamespaceMode(IntEnum):
    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class Propagation(IntEnum):
    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


class GroupsPolicy(IntEnum):
    MERGE = 0
    STRICT = 1


class ProfileType(IntEnum):
    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


class SandboxState(IntEnum):
    READY = 0
    NOTREADY = 1


class ContainerState(IntEnum):
    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


class EventType(IntEnum):
    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


class IdMapping(Struct, frozen=True, kw_only=True):
    host_id: int = 0
    container_id: int = 0
    length: int = 0


class UserNamespace(Struct, frozen=True, kw_only=True):
    mode: NamespaceMode = NamespaceMode.POD
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()


class NamespaceOptions(Struct, frozen=True, kw_only=True):
    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""
    userns: UserNamespace | None = None


class SecurityProfile(Struct, frozen=True, kw_only=True):
    profile_type: ProfileType = ProfileType.RUNTIME_DEFAULT
    localhost_ref: str = ""


class SelinuxOptions(Struct, frozen=True, kw_only=True):
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class Capabilities(Struct, frozen=True, kw_only=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    add_ambient: tuple[str, ...] = ()


class HugepageLimit(Struct, frozen=True, kw_only=True):
    page_size: str = ""
    limit: int = 0


class LinuxResources(Struct, frozen=True, kw_only=True):
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    memory_limit: int = 0
    memory_swap_limit: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    unified: dict[str, str] = {}


class DnsConfig(Struct, frozen=True, kw_only=True):
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class PortMapping(Struct, frozen=True, kw_only=True):
    protocol: str = "tcp"
    """tcp, udp or sctp."""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""


class SandboxMetadata(Struct, frozen=True, kw_only=True):
    name: str
    uid: str = ""
    namespace: str = ""
    attempt: int = 0


class SandboxSecurity(Struct, frozen=True, kw_only=True):
    namespaces: NamespaceOptions = NamespaceOptions()
    selinux: SelinuxOptions | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: GroupsPolicy = GroupsPolicy.MERGE
    privileged: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


class SandboxConfig(Struct, frozen=True, kw_only=True):
    metadata: SandboxMetadata
    hostname: str = ""
    log_directory: str = ""
    dns: DnsConfig | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    cgroup_parent: str = ""
    sysctls: dict[str, str] = {}
    security: SandboxSecurity = SandboxSecurity()
    overhead: LinuxResources | None = None
    resources: LinuxResources | None = None


class ImageSpec(Struct, frozen=True, kw_only=True):
    image: str = ""
    annotations: dict[str, str] = {}
    user_specified_image: str = ""
    runtime_handler: str = ""
    image_ref: str = ""


class Mount(Struct, frozen=True, kw_only=True):
    container_path: str
    host_path: str = ""
    readonly: bool = False
    recursive_read_only: bool = False
    selinux_relabel: bool = False
    propagation: Propagation = Propagation.PRIVATE
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    image: ImageSpec | None = None
    image_sub_path: str = ""
    mount_options: tuple[str, ...] = ()


class Device(Struct, frozen=True, kw_only=True):
    container_path: str
    host_path: str
    permissions: str = "rwm"


class KeyValue(Struct, frozen=True, kw_only=True):
    key: str
    value: bytes = b""


class ContainerMetadata(Struct, frozen=True, kw_only=True):
    name: str
    attempt: int = 0


class ContainerSecurity(Struct, frozen=True, kw_only=True):
    capabilities: Capabilities = Capabilities()
    privileged: bool = False
    namespaces: NamespaceOptions = NamespaceOptions()
    selinux: SelinuxOptions | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: GroupsPolicy = GroupsPolicy.MERGE
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    """convert.py folds the deprecated *_profile strings into seccomp and apparmor; the new fields win."""


class ContainerConfig(Struct, frozen=True, kw_only=True):
    metadata: ContainerMetadata
    image: ImageSpec = ImageSpec()
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[KeyValue, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: LinuxResources = LinuxResources()
    security: ContainerSecurity = ContainerSecurity()
    stop_signal: int = 0
    """Linux signal number; 0 = not given. convert.py maps CRI's Signal enum."""


class ContainerUser(Struct, frozen=True, kw_only=True):
    uid: int = 0
    gid: int = 0
    supplemental_groups: tuple[int, ...] = ()


class Sandbox(Struct, frozen=True, kw_only=True):
    """A pod sandbox as readers see it."""

    id: SandboxId
    config: SandboxConfig
    state: SandboxState
    created_at: int
    runtime_handler: str = ""
    ips: tuple[str, ...] = ()
    """First is the primary address; empty for host network and while not ready."""
    reason: str = ""
    """Why the sandbox is not ready, when it is not because of StopPodSandbox."""
    info: dict[str, object] = {}
    """Verbose facts: monitor pid, netns path, CNI result, ..."""


class Container(Struct, frozen=True, kw_only=True):
    """A container as readers see it."""

    id: ContainerId
    sandbox_id: SandboxId
    config: ContainerConfig
    state: ContainerState
    created_at: int
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image_id: str = ""
    """Digest of the image config; CRI's image_ref and image_id."""
    log_path: str = ""
    """Absolute; empty = no log."""
    user: ContainerUser | None = None
    stop_signal: int = 15
    resources: LinuxResources = LinuxResources()
    """As last updated."""
    mount_digests: dict[str, str] = {}
    """container_path of an image mount -> digest of its image."""
    info: dict[str, object] = {}


class Event(Struct, frozen=True, kw_only=True):
    """A container event; ``sandbox`` and ``containers`` are the statuses at that moment."""

    sequence: int
    type: EventType
    container_id: str
    created_at: int
    sandbox: Sandbox | None = None
    containers: tuple[Container, ...] = ()


class PsiData(Struct, frozen=True, kw_only=True):
    total: int = 0
    """Nanoseconds."""
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


class Psi(Struct, frozen=True, kw_only=True):
    some: PsiData = PsiData()
    full: PsiData = PsiData()


class CpuStats(Struct, frozen=True, kw_only=True):
    timestamp: int
    usage_core_nano_seconds: int = 0
    usage_nano_cores: int | None = None
    psi: Psi | None = None


class MemoryStats(Struct, frozen=True, kw_only=True):
    timestamp: int
    working_set: int = 0
    available: int | None = None
    usage: int = 0
    rss: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    psi: Psi | None = None


class SwapStats(Struct, frozen=True, kw_only=True):
    timestamp: int
    available: int | None = None
    usage: int = 0


class IoStats(Struct, frozen=True, kw_only=True):
    timestamp: int
    psi: Psi | None = None


class FilesystemStats(Struct, frozen=True, kw_only=True):
    timestamp: int
    mountpoint: str
    used_bytes: int
    inodes_used: int


class InterfaceStats(Struct, frozen=True, kw_only=True):
    name: str
    rx_bytes: int = 0
    rx_errors: int = 0
    tx_bytes: int = 0
    tx_errors: int = 0


class ContainerStats(Struct, frozen=True, kw_only=True):
    container: Container
    cpu: CpuStats | None = None
    memory: MemoryStats | None = None
    swap: SwapStats | None = None
    io: IoStats | None = None
    writable_layer: FilesystemStats | None = None


class SandboxStats(Struct, frozen=True, kw_only=True):
    sandbox: Sandbox
    cpu: CpuStats | None = None
    memory: MemoryStats | None = None
    io: IoStats | None = None
    network_timestamp: int = 0
    interfaces: tuple[InterfaceStats, ...] = ()
    """First is the default interface."""
    process_count: int | None = None
    containers: tuple[ContainerStats, ...] = ()
