"""The OCI runtime spec's config.json (runtime-spec 1.3, so 1.2 as well): parse(bytes) -> frozen structs, and back with to_json.

Owns the shape of the document: types, ranges, required properties. Never judges what a container may have: oci/validate.py. Unknown
properties are ignored, as the specification's "Extensibility" says; a property of a known name with a wrong type is an error that names it.
Test: tests/unit/specs/test_runtime.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from orlop.base.errors import InvalidArgument
from orlop.base.limits import RUNTIME_SPEC_BYTES

VERSION: Final = "1.3.0"

Uint16 = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
# msgspec cannot state a bound above 2**63 - 1; validate.py refuses what does not fit into 64 bits.
Uint64 = Annotated[int, msgspec.Meta(ge=0)]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class _Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Common options: camelCase on the wire, absent when default."""


# ---- process


class Box(_Struct, frozen=True, kw_only=True):
    height: Uint32 = 0
    width: Uint32 = 0


class User(_Struct, frozen=True, kw_only=True):
    uid: Uint32 = 0
    gid: Uint32 = 0
    umask: Uint32 | None = None
    additional_gids: tuple[Uint32, ...] = ()
    username: str = ""


class Capabilities(_Struct, frozen=True, kw_only=True):
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Struct, frozen=True, kw_only=True):
    type: str
    soft: Uint64 = 0
    hard: Uint64 = 0


class Scheduler(_Struct, frozen=True, kw_only=True):
    policy: str
    nice: Int32 = 0
    priority: Int32 = 0
    flags: tuple[str, ...] = ()
    runtime: Uint64 = 0
    deadline: Uint64 = 0
    period: Uint64 = 0


class IOPriority(_Struct, frozen=True, kw_only=True):
    class_: str = msgspec.field(name="class")
    priority: int = 0


class CPUAffinity(_Struct, frozen=True, kw_only=True):
    initial: str = ""
    final: str = ""


class Process(_Struct, frozen=True, kw_only=True):
    cwd: str
    args: tuple[str, ...] = ()
    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    env: tuple[str, ...] = ()
    """``NAME=value``; bytes that are not UTF-8 are surrogate escapes (PEP 383)."""
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    selinux_label: str = ""
    io_priority: IOPriority | None = None
    exec_cpu_affinity: CPUAffinity | None = msgspec.field(name="execCPUAffinity", default=None)


# ---- root, mounts, hooks


class Root(_Struct, frozen=True, kw_only=True):
    path: str
    readonly: bool = False


class IDMapping(_Struct, frozen=True, kw_only=True):
    container_id: Uint32 = msgspec.field(name="containerID", default=0)
    host_id: Uint32 = msgspec.field(name="hostID", default=0)
    size: Uint32 = 0


class Mount(_Struct, frozen=True, kw_only=True):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Hook(_Struct, frozen=True, kw_only=True):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(_Struct, frozen=True, kw_only=True):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


# ---- linux.resources


class WeightDevice(_Struct, frozen=True, kw_only=True):
    major: int
    minor: int
    weight: Uint16 | None = None
    leaf_weight: Uint16 | None = None


class ThrottleDevice(_Struct, frozen=True, kw_only=True):
    major: int
    minor: int
    rate: Uint64 = 0


class BlockIO(_Struct, frozen=True, kw_only=True):
    weight: Uint16 | None = None
    leaf_weight: Uint16 | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(name="throttleReadIOPSDevice", default=())
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(name="throttleWriteIOPSDevice", default=())


class Memory(_Struct, frozen=True, kw_only=True):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(name="kernelTCP", default=None)
    swappiness: Uint64 | None = None
    disable_oom_killer: bool | None = msgspec.field(name="disableOOMKiller", default=None)
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(_Struct, frozen=True, kw_only=True):
    shares: Uint64 | None = None
    quota: int | None = None
    burst: Uint64 | None = None
    period: Uint64 | None = None
    realtime_runtime: int | None = None
    realtime_period: Uint64 | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(_Struct, frozen=True, kw_only=True):
    limit: int | None = None


class InterfacePriority(_Struct, frozen=True, kw_only=True):
    name: str
    priority: Uint32 = 0


class Network(_Struct, frozen=True, kw_only=True):
    class_id: Uint32 | None = msgspec.field(name="classID", default=None)
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(_Struct, frozen=True, kw_only=True):
    hca_handles: Uint32 | None = None
    hca_objects: Uint32 | None = None


class HugepageLimit(_Struct, frozen=True, kw_only=True):
    page_size: str
    limit: Uint64 = 0


class DeviceCgroup(_Struct, frozen=True, kw_only=True):
    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Resources(_Struct, frozen=True, kw_only=True):
    devices: tuple[DeviceCgroup, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(name="blockIO", default=None)
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: Network | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


# ---- the rest of linux


class Namespace(_Struct, frozen=True, kw_only=True):
    type: str
    path: str = ""


class Device(_Struct, frozen=True, kw_only=True):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: Uint32 | None = None
    uid: Uint32 | None = None
    gid: Uint32 | None = None


class NetDevice(_Struct, frozen=True, kw_only=True):
    name: str = ""


class SeccompArg(_Struct, frozen=True, kw_only=True):
    index: Annotated[int, msgspec.Meta(ge=0, le=5)]
    op: str
    value: Uint64 = 0
    value_two: Uint64 = 0


class Syscall(_Struct, frozen=True, kw_only=True):
    names: tuple[str, ...]
    action: str
    errno_ret: Uint32 | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(_Struct, frozen=True, kw_only=True):
    default_action: str
    default_errno_ret: Uint32 | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[Syscall, ...] = ()


class IntelRdt(_Struct, frozen=True, kw_only=True):
    clos_id: str = msgspec.field(name="closID", default="")
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_monitoring: bool = False


class MemoryPolicy(_Struct, frozen=True, kw_only=True):
    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


class Personality(_Struct, frozen=True, kw_only=True):
    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(_Struct, frozen=True, kw_only=True):
    secs: int = 0
    nanosecs: Uint32 = 0


class Linux(_Struct, frozen=True, kw_only=True):
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: dict[str, NetDevice] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = {}


class RuntimeSpec(_Struct, frozen=True, kw_only=True):
    """A container's config.json."""

    oci_version: str
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None


_decoder: Final = msgspec.json.Decoder(RuntimeSpec)
_process_decoder: Final = msgspec.json.Decoder(Process)
_encoder: Final = msgspec.json.Encoder()


def parse(data: bytes) -> RuntimeSpec:
    """Return the document; raises InvalidArgument that names the property which is wrong."""
    if len(data) > RUNTIME_SPEC_BYTES:
        raise InvalidArgument(f"config.json: {len(data)} bytes, limit {RUNTIME_SPEC_BYTES}")
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"config.json: {_words(error)}") from error


def parse_process(data: bytes) -> Process:
    """Return the document of ``exec --process``: a process object alone."""
    if len(data) > RUNTIME_SPEC_BYTES:
        raise InvalidArgument(f"process: {len(data)} bytes, limit {RUNTIME_SPEC_BYTES}")
    try:
        return _process_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"process: {_words(error)}") from error


def _words(error: Exception) -> str:
    """``Expected `str`, got `int` - at `$.process.cwd` `` -> ``process.cwd: expected `str`, got `int` ``."""
    text, _, where = str(error).partition(" - at `$")
    text = text[:1].lower() + text[1:]
    where = where.rstrip("`").removeprefix(".")
    return f"{where}: {text}" if where else text


def to_json(spec: RuntimeSpec, *, lossy: bool = False) -> bytes:
    """Return the document. JSON holds text only: an env value or argument that is not UTF-8 raises InvalidArgument, or is replaced when
    ``lossy`` (for people to read, never to run)."""
    try:
        return _encoder.encode(spec)
    except UnicodeEncodeError as error:
        if not lossy or spec.process is None:
            raise InvalidArgument(
                "config.json: process.env or process.args is not UTF-8; JSON cannot carry it"
            ) from error
    return _encoder.encode(_map_texts(spec, _readable))


def resources_json(resources: Resources) -> bytes:
    """Return the document of ``update --resources``: a resources object alone."""
    return _encoder.encode(resources)


# U+10FF80 .. U+10FFFF, the last private code points: in a stored document they stand for the bytes 0x80 .. 0xFF.
_BYTE_BASE: Final = 0x10FF00
_BYTE_MARKS: Final = (b"\xf4\x8f\xbe", b"\xf4\x8f\xbf")
"""How UTF-8 begins those code points."""


def dump(spec: RuntimeSpec) -> bytes:
    """Return the document for our own store: as to_json, and environment and arguments that are not UTF-8 survive. Read back with load."""
    try:
        data = _encoder.encode(spec)
        if not any(mark in data for mark in _BYTE_MARKS):
            return data
    except UnicodeEncodeError:
        pass
    return _encoder.encode(_map_texts(spec, _mark_bytes))


def load(data: bytes) -> RuntimeSpec:
    """Return what dump was given."""
    spec = parse(data)
    return _map_texts(spec, _unmark_bytes) if any(mark in data for mark in _BYTE_MARKS) else spec


def _map_texts(spec: RuntimeSpec, change: Callable[[str], str]) -> RuntimeSpec:
    if spec.process is None:
        return spec
    args, env = tuple(map(change, spec.process.args)), tuple(map(change, spec.process.env))
    return msgspec.structs.replace(spec, process=msgspec.structs.replace(spec.process, args=args, env=env))


def _mark_bytes(text: str) -> str:
    """A byte that is not UTF-8 becomes its mark; so does each byte of a character that looks like a mark: load cannot confuse the two."""
    marked = []
    for char in text:
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            marked.append(chr(_BYTE_BASE + code - 0xDC00))
        elif code >= _BYTE_BASE + 0x80:
            marked.extend(chr(_BYTE_BASE + byte) for byte in char.encode())
        else:
            marked.append(char)
    return "".join(marked)


def _unmark_bytes(text: str) -> str:
    data = b"".join(
        bytes([ord(char) - _BYTE_BASE]) if ord(char) >= _BYTE_BASE + 0x80 else char.encode() for char in text
    )
    return data.decode("utf-8", "surrogateescape")


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
