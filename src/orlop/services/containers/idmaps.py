"""ID-mapped mounts of a container: a user namespace for each mapping, and the refusal where a file system cannot be mapped.

The plan does the mapping; here it is tried once on a clone that is thrown away, because only here the error can name the field.
Test: tests/cri/test_volumes.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.kernel import mount
from orlop.monitor.userns import IdMapNamespaces
from orlop.oci.ops import Fd
from orlop.oci.validate import target_of
from orlop.services.containers.spec_mounts import userns_label
from orlop.specs.pod import ContainerConfig, IdMapping


def open_idmaps(
    namespaces: IdMapNamespaces, config: ContainerConfig, subject: str, fds: list[int]
) -> Mapping[str, tuple[Fd, int]]:
    """Return mount point -> (label, user namespace) of each mapped mount; the fds are appended to ``fds``, which the caller closes.

    Sources must exist. Raises InvalidArgument (maps that the kernel refuses), FailedPrecondition (a file system that cannot be mapped).
    """
    found: dict[str, tuple[Fd, int]] = {}
    for index, each in enumerate(config.mounts):
        if not each.uid_mappings:
            continue
        field = f"{subject}: mounts[{index}]"
        target = target_of(f"{field}.container_path", each.container_path)
        try:
            fd = namespaces.open(_lines(each.uid_mappings), _lines(each.gid_mappings))
        except (InvalidArgument, FailedPrecondition) as error:
            raise type(error)(f"{field}.uidMappings: {error}") from error
        fds.append(fd)
        if each.image is None:
            _try(each.host_path, fd, field)
        found[target] = (userns_label(target), fd)
    return found


def _lines(mappings: tuple[IdMapping, ...]) -> tuple[tuple[int, int, int], ...]:
    return tuple((each.container_id, each.host_id, each.length) for each in mappings)


def _try(source: str, userns_fd: int, field: str) -> None:
    try:
        clone = mount.open_tree(mount.AT_FDCWD, source, mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"{field}.host_path: {source}: {error.strerror}") from error
    try:
        mount.mount_setattr(clone, "", mount.AT_EMPTY_PATH, attr_set=mount.MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP):
            raise
        raise FailedPrecondition(
            f"{field}.uidMappings: {source}: its file system cannot be id-mapped on this kernel: {error.strerror}"
        ) from error
    finally:
        os.close(clone)
