"""Device nodes of the host as the runtime spec's devices: those a container asks for, and all of them for a privileged one.

Reads /dev by lstat only; opens no device, as opening one can act. Never decides who may have which device.
Test: tests/unit/services/containers/test_devices.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from orlop.base.errors import InvalidArgument
from orlop.specs.pod import Device
from orlop.specs.runtime import Device as Node

# Made for each container anew, or not devices of the host's hardware.
_SKIPPED: Final = frozenset(
    {"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev"}  # noqa: S108
)
_SKIPPED_NODES: Final = frozenset({"/dev/console", "/dev/ptmx", "/dev/tty"})


def device_nodes(devices: tuple[Device, ...]) -> tuple[Node, ...]:
    """Return the nodes of a container's devices; one that is a directory of the host stands for all nodes below it.

    Raises InvalidArgument that names the device.
    """
    nodes: list[Node] = []
    for index, device in enumerate(devices):
        field = f"devices[{index}].host_path"
        target = device.container_path or device.host_path
        try:
            # As an administrator would expect of /dev/disk/by-id/...: the link's target, resolved on the host.
            path = os.path.realpath(device.host_path, strict=True)
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise InvalidArgument(f"{field}: {device.host_path}: {error.strerror}") from error
        if stat.S_ISDIR(mode):
            below = [_renamed(node, target.rstrip("/") + node.path[len(path) :]) for node in _walk(path, skip=False)]
            if not below:
                raise InvalidArgument(f"{field}: {device.host_path} holds no device")
            nodes.extend(below)
            continue
        node = _node(path)
        if node is None:
            raise InvalidArgument(f"{field}: {device.host_path} is not a device")
        nodes.append(_renamed(node, target))
    return tuple(nodes)


def host_devices() -> tuple[Node, ...]:
    """Return all device nodes below the host's /dev, except those that every container gets of its own."""
    return tuple(node for node in _walk("/dev", skip=True) if node.path not in _SKIPPED_NODES)


def describe_device(path: str) -> Node | None:
    """Return the host's node at a path, links followed; None when it is none or not there."""
    return _node(os.path.realpath(path))


def _walk(directory: str, *, skip: bool) -> Iterator[Node]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        # Hot-plugging removes directories under a walk.
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not (skip and entry.path in _SKIPPED):
                yield from _walk(entry.path, skip=skip)
        elif (node := _node(entry.path)) is not None:
            yield node


def _node(path: str) -> Node | None:
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISCHR(facts.st_mode):
        kind = "c"
    elif stat.S_ISBLK(facts.st_mode):
        kind = "b"
    else:
        return None
    return Node(
        path=path,
        type=kind,
        major=os.major(facts.st_rdev),
        minor=os.minor(facts.st_rdev),
        file_mode=stat.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
    )


def _renamed(node: Node, path: str) -> Node:
    return Node(
        path=path,
        type=node.type,
        major=node.major,
        minor=node.minor,
        file_mode=node.file_mode,
        uid=node.uid,
        gid=node.gid,
    )
