"""Devices by CDI: which files describe them, which a container asks for, and their edits in its runtime spec.

    CDI_devices, annotations cdi.k8s.io/* of the container (kubelet's device plugins; never the pod's, which are its author's)
      -> CdiCatalog.find: the documents of the spec directories, read again when they changed
      -> apply_edits: environment, device nodes with their rules, mounts, groups, in the document, before it becomes cgroup and plan

Hooks are refused, and so are intelRdt and netDevices: a device with half of its edits is worse than an error. An OCI hook runs programs of
the host on a root file system that it finds by path, and a root here has none. Test: tests/unit/services/containers/test_cdi.py,
tests/cri/test_cdi.py.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from orlop.base import limits
from orlop.base.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    ResourceExhausted,
    Unimplemented,
)
from orlop.services.containers.devices import describe_device
from orlop.specs import cdi
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerConfig

log = logging.getLogger(__name__)

_UNBUILT: Final = (
    ("hooks", "programs of the host that look for the container's root by path; its root has none"),
    ("intel_rdt", "not implemented"),
    ("net_devices", "not implemented"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One device, with the document that it is in."""

    name: str
    spec: cdi.CdiSpec
    device: cdi.Device


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    stamp: tuple[int, int, int]
    spec: cdi.CdiSpec | None
    error: str = ""


class CdiCatalog:
    """The documents of the spec directories; those of later directories win. Made once; reads files only when somebody asks for a device."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)
        self._files: dict[Path, _File] = {}

    def find(self, names: Sequence[str]) -> tuple[Found, ...]:
        """Return the devices of these qualified names, each once.

        Raises NotFound (nobody describes it; the reason names documents that are wrong), FailedPrecondition (two documents of one directory
        describe it; CDI is off).
        """
        if not self._directories:
            raise FailedPrecondition("CDI is off on this node: runtime.cdi_spec_dirs is empty")
        by_directory = [self._read(directory) for directory in self._directories]
        return tuple(self._device(name, by_directory) for name in dict.fromkeys(names))

    def describe(self) -> dict[str, list[str]]:
        """Return what an operator wants to see: the directories, the devices that can be asked for, and what is wrong with documents."""
        devices: set[str] = set()
        errors: list[str] = []
        for directory in self._directories:
            try:
                files = self._read(directory)
            except (OrlopError, OSError) as error:
                errors.append(str(error))
                continue
            for file in files.values():
                if file.spec is None:
                    errors.append(file.error)
                else:
                    devices.update(f"{file.spec.kind}={each.name}" for each in file.spec.devices)
        return {"specDirs": [*map(str, self._directories)], "devices": sorted(devices), "errors": errors}

    def _device(self, name: str, by_directory: list[dict[Path, _File]]) -> Found:
        kind, _, wanted = name.partition("=")
        for files in reversed(by_directory):
            found = [
                (path, file.spec, device)
                for path, file in files.items()
                if file.spec is not None and file.spec.kind == kind
                for device in file.spec.devices
                if device.name == wanted
            ]
            if len(found) > 1:
                raise FailedPrecondition(f"{name}: described by both {found[0][0]} and {found[1][0]}")
            if found:
                return Found(name=name, spec=found[0][1], device=found[0][2])
        wrong = "; ".join(file.error for files in by_directory for file in files.values() if file.error)
        where = ", ".join(map(str, self._directories))
        raise NotFound(f"{name}: no document in {where} describes it{f' (unusable: {wrong})' if wrong else ''}")

    def _read(self, directory: Path) -> dict[Path, _File]:
        try:
            names = sorted(entry for entry in os.listdir(directory) if entry.endswith(cdi.SUFFIXES))
        except (FileNotFoundError, NotADirectoryError):
            names = []
        if len(names) > limits.CDI_SPEC_FILES:
            raise ResourceExhausted(f"{directory}: {len(names)} CDI documents, limit {limits.CDI_SPEC_FILES}")
        found = {}
        for name in names:
            path = directory / name
            try:
                file = self._file(path)
            except FileNotFoundError:  # removed since it was listed
                continue
            found[path] = self._files[path] = file
        for path in [each for each in self._files if each.parent == directory and each not in found]:
            del self._files[path]
        return found

    def _file(self, path: Path) -> _File:
        facts = os.stat(path)
        stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        known = self._files.get(path)
        if known is not None and known.stamp == stamp:
            return known
        try:
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidArgument(f"{path}: not a file")
            if facts.st_mode & 0o002:
                raise InvalidArgument(f"{path}: anybody may write it")
            with open(path, "rb") as opened:
                data = opened.read(limits.CDI_SPEC_BYTES + 1)
            return _File(stamp=stamp, spec=cdi.parse_cdi(data, name=str(path)))
        except FileNotFoundError:
            raise
        except (OrlopError, OSError) as error:
            log.warning("CDI: %s", error)
            return _File(stamp=stamp, spec=None, error=str(error))


def asked_devices(config: ContainerConfig) -> tuple[str, ...]:
    """Return the qualified names that a container asks for, in order, each once. Raises InvalidArgument, ResourceExhausted."""
    subject = f"container {config.metadata.name}"
    names: dict[str, None] = {}
    given = [(f"CDI_devices[{index}]", name) for index, name in enumerate(config.cdi_devices)]
    for key in sorted(config.annotations):
        if key.startswith(cdi.ANNOTATION):
            given += [(f"annotations[{key}]", name.strip()) for name in config.annotations[key].split(",")]
    for field, name in given:
        try:
            cdi.split_device(name)
        except ValueError as error:
            raise InvalidArgument(f"{subject}: {field}: {error}") from None
        names[name] = None
    if len(names) > limits.CDI_DEVICES_ASKED:
        raise ResourceExhausted(f"{subject}: CDI_devices: {len(names)}, limit {limits.CDI_DEVICES_ASKED}")
    return tuple(names)


def edit_spec(spec: oci.RuntimeSpec, catalog: CdiCatalog, names: Sequence[str], subject: str) -> oci.RuntimeSpec:
    """Return the spec with the edits of these devices; each document's own edits once. Looks devices up on the host.

    Raises as CdiCatalog.find, Unimplemented (hooks, intelRdt, netDevices), FailedPrecondition (a node or a mount's source is not there).
    """
    try:
        found = catalog.find(names)
        done: list[cdi.CdiSpec] = []
        for each in found:
            if each.spec not in done:
                done.append(each.spec)
                spec = apply_edits(spec, each.spec.container_edits, each.name)
            spec = apply_edits(spec, each.device.container_edits, each.name)
    except OrlopError as error:
        raise type(error)(f"{subject}: CDI device {error}") from error
    return spec


def apply_edits(spec: oci.RuntimeSpec, edits: cdi.ContainerEdits, name: str) -> oci.RuntimeSpec:
    """Return the spec with one object's edits; the errors begin with ``name``."""
    for field, reason in _UNBUILT:
        if getattr(edits, field):
            raise Unimplemented(f"{name}: containerEdits.{_camel(field)}: {reason}")
    process, linux = spec.process, spec.linux
    if process is None or linux is None or linux.resources is None:
        raise InvalidArgument(f"{name}: the runtime spec has no process, or no linux.resources")
    if edits.env:
        process = msgspec.structs.replace(process, env=_environment(process.env, edits.env))
    if edits.additional_gids:
        groups = {*process.user.additional_gids, *(gid for gid in edits.additional_gids if gid)}
        user = msgspec.structs.replace(process.user, additional_gids=tuple(sorted(groups)))
        process = msgspec.structs.replace(process, user=user)
    for node in edits.device_nodes:
        linux = _with_node(linux, node, process.user, name)
    mounts = spec.mounts
    if edits.mounts:
        mounts = _with_mounts(mounts, edits.mounts, name)
    return msgspec.structs.replace(spec, process=process, linux=linux, mounts=mounts)


def _camel(field: str) -> str:
    head, *rest = field.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _environment(env: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    values = {entry.partition("=")[0]: entry for entry in env}
    values.update((entry.partition("=")[0], entry) for entry in more)
    return tuple(values.values())


def _with_node(linux: oci.Linux, node: cdi.DeviceNode, user: oci.User, name: str) -> oci.Linux:
    made = _node(node, name)
    if made.uid in (None, 0) and node.uid is None and user.uid:
        # As CDI has it: a node that the document gives to nobody is the container's user's.
        made = msgspec.structs.replace(made, uid=user.uid)
    if made.gid in (None, 0) and node.gid is None and user.gid:
        made = msgspec.structs.replace(made, gid=user.gid)
    devices = (*(each for each in linux.devices if each.path != made.path), made)
    resources = linux.resources
    if resources is not None and made.type != "p":
        rule = oci.DeviceCgroup(
            allow=True,
            type="c" if made.type == "u" else made.type,
            major=made.major,
            minor=made.minor,
            access=node.permissions or "rwm",
        )
        resources = msgspec.structs.replace(resources, devices=(*resources.devices, rule))
    return msgspec.structs.replace(linux, devices=devices, resources=resources)


def _node(node: cdi.DeviceNode, name: str) -> oci.Device:
    """What the document leaves out is the host's; where it has all, the host need not have the node."""
    if node.type and (node.type == "p" or (node.major is not None and node.minor is not None)):
        return oci.Device(
            path=node.path,
            type=node.type,
            major=node.major or 0,
            minor=node.minor or 0,
            file_mode=node.file_mode,
            uid=node.uid,
            gid=node.gid,
        )
    host_path = node.host_path or node.path
    seen = describe_device(host_path)
    if seen is None:
        raise FailedPrecondition(f"{name}: containerEdits.deviceNodes: {host_path} is not a device of this host")
    if node.type and ("c" if node.type == "u" else node.type) != seen.type:
        raise FailedPrecondition(
            f"{name}: containerEdits.deviceNodes: {host_path} is of type {seen.type}, not {node.type}"
        )
    return msgspec.structs.replace(
        seen,
        path=node.path,
        major=seen.major if node.major is None else node.major,
        minor=seen.minor if node.minor is None else node.minor,
        file_mode=seen.file_mode if node.file_mode is None else node.file_mode,
        uid=seen.uid if node.uid is None else node.uid,
        gid=seen.gid if node.gid is None else node.gid,
    )


def _with_mounts(mounts: tuple[oci.Mount, ...], more: tuple[cdi.Mount, ...], name: str) -> tuple[oci.Mount, ...]:
    """A mount of a document takes the place of one on the same path; what lies higher is mounted first."""
    added: dict[str, oci.Mount] = {}
    for mount in more:
        bind = mount.type in ("", "bind") or "bind" in mount.options or "rbind" in mount.options
        if bind and not os.path.exists(mount.host_path):
            raise FailedPrecondition(f"{name}: containerEdits.mounts: {mount.host_path} is not there")
        options = mount.options
        if bind and "bind" not in options and "rbind" not in options:
            options = ("rbind", *options)
        added[os.path.normpath(mount.container_path)] = oci.Mount(
            destination=mount.container_path,
            type="bind" if bind else mount.type,
            source=mount.host_path,
            options=options,
        )
    kept = [each for each in mounts if os.path.normpath(each.destination) not in added]
    return tuple(sorted((*kept, *added.values()), key=lambda each: os.path.normpath(each.destination).count("/")))
