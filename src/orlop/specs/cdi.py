"""CDI documents (Container Device Interface, 0.3.0 to 1.1.0): how a vendor describes what a device needs in a container. Parse and check.

JSON or YAML, by the file's name. A field that is not in the specification is an error: an edit that is silently left out would give half a
device. Knows no files and no host. Test: tests/unit/specs/test_cdi.py.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from orlop.base import limits
from orlop.base.errors import InvalidArgument, ResourceExhausted
from orlop.specs.strict_json import read_json

VERSIONS: Final = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOKS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
SUFFIXES: Final = (".json", ".yaml", ".yml")
ANNOTATION: Final = "cdi.k8s.io/"

_VENDOR: Final = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_CLASS: Final = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_DEVICE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)
_ENV: Final = re.compile(r"[^=\0\r\n]+=[^\0]*")


class _Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Common options of all objects of the document."""


class DeviceNode(_Struct, frozen=True, kw_only=True):
    """A node to make; what is not given is the host's."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int | None = None
    gid: int | None = None


class Mount(_Struct, frozen=True, kw_only=True):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Struct, frozen=True, kw_only=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class NetDevice(_Struct, frozen=True, kw_only=True):
    host_interface_name: str
    name: str


class ContainerEdits(_Struct, frozen=True, kw_only=True):
    """What a device, or every device of a document, changes in a container."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[Mount, ...] = ()
    intel_rdt: dict[str, Any] | None = None
    additional_gids: tuple[int, ...] = msgspec.field(name="additionalGids", default=())


class Device(_Struct, frozen=True, kw_only=True):
    name: str
    annotations: dict[str, str] = {}
    container_edits: ContainerEdits = ContainerEdits()


class CdiSpec(_Struct, frozen=True, kw_only=True):
    """One document: the devices of one vendor and class."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...]
    annotations: dict[str, str] = {}
    container_edits: ContainerEdits = ContainerEdits()


def parse_cdi(data: bytes, *, name: str) -> CdiSpec:
    """Return the document in a file of that name.

    Raises InvalidArgument that names file and field, ResourceExhausted for one that is too large, too deep or has too many devices.
    """
    value = (
        read_json(data, limit=limits.CDI_SPEC_BYTES, subject=name) if name.endswith(".json") else _read_yaml(data, name)
    )
    try:
        spec = msgspec.convert(value, CdiSpec)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{name}: {error}") from error
    _check(spec, name)
    return spec


def split_device(name: str) -> tuple[str, str]:
    """Return (kind, device) of ``vendor.com/class=device``. Raises ValueError with the reason."""
    kind, equals, device = name.partition("=")
    if not equals or not _is_kind(kind) or _DEVICE.fullmatch(device) is None:
        raise ValueError(f"{name!r} is not VENDOR/CLASS=DEVICE")
    return kind, device


def _is_kind(kind: str) -> bool:
    vendor, slash, class_ = kind.partition("/")
    return bool(slash) and _VENDOR.fullmatch(vendor) is not None and _CLASS.fullmatch(class_) is not None


# ---- checks


def _check(spec: CdiSpec, name: str) -> None:
    if spec.cdi_version not in VERSIONS:
        raise InvalidArgument(f"{name}: cdiVersion: {spec.cdi_version!r} is not one of {', '.join(VERSIONS)}")
    if not _is_kind(spec.kind):
        raise InvalidArgument(f"{name}: kind: {spec.kind!r} is not VENDOR/CLASS")
    if not spec.devices:
        raise InvalidArgument(f"{name}: devices: none")
    if len(spec.devices) > limits.CDI_DEVICES:
        raise ResourceExhausted(f"{name}: devices: {len(spec.devices)}, limit {limits.CDI_DEVICES}")
    _check_edits(spec.container_edits, f"{name}: containerEdits")
    seen: set[str] = set()
    for index, device in enumerate(spec.devices):
        field = f"{name}: devices[{index}]"
        if _DEVICE.fullmatch(device.name) is None:
            raise InvalidArgument(f"{field}.name: {device.name!r} is not a device's name")
        if device.name in seen:
            raise InvalidArgument(f"{field}.name: {device.name!r} is given twice")
        seen.add(device.name)
        if device.container_edits == ContainerEdits():
            raise InvalidArgument(f"{field}.containerEdits: empty")
        _check_edits(device.container_edits, f"{field}.containerEdits")


def _check_edits(edits: ContainerEdits, field: str) -> None:
    for index, entry in enumerate(edits.env):
        if _ENV.fullmatch(entry) is None:
            raise InvalidArgument(f"{field}.env[{index}]: {entry[:80]!r} is not NAME=value")
    for index, node in enumerate(edits.device_nodes):
        where = f"{field}.deviceNodes[{index}]"
        _check_path(node.path, f"{where}.path")
        if node.host_path:
            _check_path(node.host_path, f"{where}.hostPath")
        if node.type not in ("", "b", "c", "u", "p"):
            raise InvalidArgument(f"{where}.type: {node.type!r} is not b, c, u or p")
        if set(node.permissions) - set("rwm"):
            raise InvalidArgument(f"{where}.permissions: {node.permissions!r} is not made of r, w and m")
        for label, number in (("major", node.major), ("minor", node.minor), ("uid", node.uid), ("gid", node.gid)):
            if number is not None and not 0 <= number < 2**32:
                raise InvalidArgument(f"{where}.{label}: {number} is out of range")
        if node.file_mode is not None and not 0 <= node.file_mode <= 0o7777:
            raise InvalidArgument(f"{where}.fileMode: {node.file_mode} is not a mode")
    for index, mount in enumerate(edits.mounts):
        _check_path(mount.host_path, f"{field}.mounts[{index}].hostPath")
        _check_path(mount.container_path, f"{field}.mounts[{index}].containerPath")
    for index, hook in enumerate(edits.hooks):
        if hook.hook_name not in HOOKS:
            raise InvalidArgument(
                f"{field}.hooks[{index}].hookName: {hook.hook_name!r} is not one of {', '.join(HOOKS)}"
            )
        _check_path(hook.path, f"{field}.hooks[{index}].path")
    for index, gid in enumerate(edits.additional_gids):
        if not 0 <= gid < 2**32 - 1:
            raise InvalidArgument(f"{field}.additionalGids[{index}]: {gid} is out of range")


def _check_path(path: str, field: str) -> None:
    if not path.startswith("/") or "\0" in path or "\n" in path:
        raise InvalidArgument(f"{field}: {path[:200]!r} is not an absolute path")


def _read_yaml(data: bytes, name: str) -> Any:
    from orlop.specs.strict_yaml import read_yaml

    return read_yaml(data, name, limits.CDI_SPEC_BYTES)
