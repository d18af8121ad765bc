"""The mounts of a runtime spec: a container's defaults, the pod's files, and CRI's mounts of host paths and images. Pure.

Owns their order and options, and which of them are detached trees that somebody else must make. Test:
tests/unit/services/containers/test_spec.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.base.limits import ID_LIMIT, ID_MAPPINGS
from orlop.oci.ops import Fd
from orlop.oci.validate import target_of
from orlop.services.containers.spec_inputs import Host, PodFiles
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerConfig, Propagation

SHM_PATH: Final = "/dev/shm"  # noqa: S108 - a mount point inside the container
SHM_FD: Final = Fd("pod.shm")

_PROC: Final = oci.Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev"))
_DEV: Final = oci.Mount(
    destination="/dev",
    type="tmpfs",
    source="tmpfs",
    options=("nosuid", "strictatime", "mode=755", "size=65536k"),
)
_DEVPTS: Final = oci.Mount(
    destination="/dev/pts",
    type="devpts",
    source="devpts",
    options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
)
_MQUEUE: Final = oci.Mount(
    destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")
)
_SHM: Final = oci.Mount(
    destination=SHM_PATH,
    type="tmpfs",
    source="shm",
    options=("nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
)
_HOST_SHM: Final = oci.Mount(destination=SHM_PATH, type="bind", source=SHM_PATH, options=("rbind", "rprivate"))
_SYS: Final = oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro"))
_SYS_RW: Final = oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev"))
_CGROUP: Final = oci.Mount(
    destination="/sys/fs/cgroup",
    type="cgroup",
    source="cgroup",
    options=("nosuid", "noexec", "nodev", "relatime", "ro"),
)
_CGROUP_RW: Final = oci.Mount(
    destination="/sys/fs/cgroup",
    type="cgroup",
    source="cgroup",
    options=("nosuid", "noexec", "nodev", "relatime"),
)
_DEFAULT_MOUNTS: Final = (_PROC, _DEV, _DEVPTS, _MQUEUE, _SYS, _CGROUP)
_PRIVILEGED_MOUNTS: Final = (_PROC, _DEV, _DEVPTS, _MQUEUE, _SYS_RW, _CGROUP_RW)

_PROPAGATION: Final = {
    Propagation.PRIVATE: "rprivate",
    Propagation.HOST_TO_CONTAINER: "rslave",
    Propagation.BIDIRECTIONAL: "rshared",
}
# mount_options may only take rights away, or say how access times are kept; readonly and propagation have fields of their own.
_MOUNT_OPTIONS: Final = frozenset(
    {"noexec", "nosuid", "nodev", "nosymfollow", "noatime", "nodiratime", "relatime", "strictatime"}
)


def build_mounts(
    config: ContainerConfig, host: Host, files: PodFiles, *, subject: str, host_ipc: bool
) -> tuple[tuple[oci.Mount, ...], dict[str, Fd], tuple[str, ...], str]:
    """Return mounts, detached trees, host directories, and the root's propagation.

    Defaults first, then the pod's files and CRI's mounts with fewer path components before more, so that none hides another; a mount of
    CRI replaces a default on the same path, and one on /dev all defaults below it.
    """
    asked: list[tuple[str, oci.Mount]] = []
    trees: dict[str, Fd] = {}
    directories: list[str] = []
    propagation = ""
    for index, mount in enumerate(config.mounts):
        field = f"{subject}: mounts[{index}]"
        target = target_of(f"{field}.container_path", mount.container_path)
        if mount.image is not None and mount.image.image:
            asked.append((target, _image_mount(field, target, mount, host)))
            trees[target] = image_label(target)
            continue
        asked.append((target, _host_mount(field, target, mount, host)))
        directories.append(mount.host_path)
        if mount.propagation is Propagation.BIDIRECTIONAL:
            propagation = "rshared"
        elif mount.propagation is Propagation.HOST_TO_CONTAINER and not propagation:
            propagation = "rslave"
    taken = {target for target, _ in asked}
    readonly = config.security.readonly_rootfs
    options = ("rbind", "rprivate", "ro") if readonly else ("rbind", "rprivate")
    for target, source in (
        ("/etc/hostname", files.hostname),
        ("/etc/hosts", files.hosts),
        ("/etc/resolv.conf", files.resolv_conf),
    ):
        if source and target not in taken:
            asked.append((target, oci.Mount(destination=target, type="bind", source=source, options=options)))
    if SHM_PATH not in taken:
        # On its own the document asks for a shm of the container; with the tree it is the pod's.
        asked.append((SHM_PATH, _HOST_SHM if host_ipc else _SHM))
        if not host_ipc:
            trees[SHM_PATH] = SHM_FD
    asked.sort(key=lambda item: item[0].count("/"))
    defaults: tuple[oci.Mount, ...] = _PRIVILEGED_MOUNTS if config.security.privileged else _DEFAULT_MOUNTS
    if taken:
        below_dev = "/dev" in taken
        defaults = tuple(
            mount
            for mount in defaults
            if mount.destination not in taken and not (below_dev and mount.destination.startswith("/dev/"))
        )
    return (*defaults, *(mount for _, mount in asked)), trees, tuple(directories), propagation


def _host_mount(field: str, target: str, mount: pod.Mount, host: Host) -> oci.Mount:
    if not mount.host_path.startswith("/"):
        raise InvalidArgument(f"{field}.host_path: {mount.host_path!r} is not an absolute path")
    options = ["rbind", _PROPAGATION[mount.propagation]]
    if mount.recursive_read_only:
        if not mount.readonly:
            raise InvalidArgument(f"{field}.recursive_read_only: conflicts with a writable mount")
        if mount.propagation is not Propagation.PRIVATE:
            raise InvalidArgument(f"{field}.recursive_read_only: needs private propagation")
        if not host.recursive_readonly:
            raise FailedPrecondition(
                f"{field}.recursive_read_only: this kernel, or the runtime handler, has no recursive read-only mounts"
            )
        options.append("rro")
    elif mount.readonly:
        options.append("ro")
    options += _mount_options(field, mount.mount_options, host)
    return oci.Mount(
        destination=target, type="bind", source=mount.host_path, options=tuple(options), **_mappings(field, mount, host)
    )


def _image_mount(field: str, target: str, mount: pod.Mount, host: Host) -> oci.Mount:
    if not mount.readonly:
        raise InvalidArgument(f"{field}.readonly: an image volume is read-only")
    if mount.host_path:
        raise InvalidArgument(f"{field}.host_path: given beside image")
    if mount.propagation is not Propagation.PRIVATE:
        raise InvalidArgument(f"{field}.propagation: an image volume is private")
    if mount.image is None:
        raise InvalidArgument(f"{field}.image: missing")
    # The mapping is checked here and lies in the view's layers: overlayfs cannot be mapped itself.
    _mappings(field, mount, host)
    options = ("rbind", "rprivate", "ro", *_mount_options(field, mount.mount_options, host))
    return oci.Mount(destination=target, type="bind", source=mount.image.image, options=options)


def _mount_options(field: str, options: tuple[str, ...], host: Host) -> tuple[str, ...]:
    """They hold for mounts below the volume as well: a place to run a program from, one level deeper, would make them worthless."""
    for option in options:
        if option not in _MOUNT_OPTIONS:
            raise InvalidArgument(
                f"{field}.mount_options: {option!r} is not one of {', '.join(sorted(_MOUNT_OPTIONS))}"
            )
    return tuple("r" + option for option in options) if host.recursive_readonly else options


class _Mappings(TypedDict, total=False):
    uid_mappings: tuple[oci.IDMapping, ...]
    gid_mappings: tuple[oci.IDMapping, ...]


def _mappings(field: str, mount: pod.Mount, host: Host) -> _Mappings:
    """The volume's own mount is mapped, as runc maps it; what is mounted below it is shown unmapped."""
    if not (mount.uid_mappings or mount.gid_mappings):
        return {}
    if not (mount.uid_mappings and mount.gid_mappings):
        raise InvalidArgument(f"{field}.uidMappings: uidMappings and gidMappings go together")
    if not host.idmapped_mounts:
        raise FailedPrecondition(f"{field}.uidMappings: this kernel, or the runtime handler, has no id-mapped mounts")
    return {
        "uid_mappings": _oci_mappings(f"{field}.uidMappings", mount.uid_mappings),
        "gid_mappings": _oci_mappings(f"{field}.gidMappings", mount.gid_mappings),
    }


def _oci_mappings(field: str, mappings: tuple[pod.IdMapping, ...]) -> tuple[oci.IDMapping, ...]:
    if len(mappings) > ID_MAPPINGS:
        raise InvalidArgument(f"{field}: {len(mappings)} ranges, the kernel takes {ID_MAPPINGS}")
    for index, each in enumerate(mappings):
        if not each.length:
            raise InvalidArgument(f"{field}[{index}].length: 0")
        if max(each.host_id, each.container_id) + each.length > ID_LIMIT:
            raise InvalidArgument(f"{field}[{index}].length: reaches beyond the last id")
    return tuple(
        oci.IDMapping(container_id=each.container_id, host_id=each.host_id, size=each.length) for each in mappings
    )


def image_label(target: str) -> Fd:
    """Return the label of an image volume's view."""
    return Fd(f"image.{target}")


def userns_label(target: str) -> Fd:
    """Return the label of the user namespace that an id-mapped mount is mapped by: compile.py's, when nobody gives another."""
    return Fd(f"userns.{target}")


def image_mounts(config: ContainerConfig) -> Mapping[str, pod.Mount]:
    """Return mount point -> the config's mount of an image, for those who prepare the trees."""
    return {
        target_of("mounts.container_path", mount.container_path): mount
        for mount in config.mounts
        if mount.image is not None and mount.image.image
    }
