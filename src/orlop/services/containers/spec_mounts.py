"""The mounts of a runtime spec: a container's defaults, the pod's files, and CRI's mounts of host paths and images. Pure.

Owns their order and options, and which of them are detached trees that somebody else must make. Test:
tests/unit/services/containers/test_spec.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orlop.base.errors import InvalidArgument, Unimplemented
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
        if mount.image is not None and (mount.image.image or mount.image.image_ref):
            asked.append((target, _image_mount(field, target, mount)))
            trees[target] = Fd(f"image.{target}")
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
    if mount.uid_mappings or mount.gid_mappings:
        raise Unimplemented(f"{field}.uidMappings: id-mapped mounts are not implemented")
    options = ["rbind", _PROPAGATION[mount.propagation]]
    if mount.recursive_read_only:
        if not mount.readonly:
            raise InvalidArgument(f"{field}.recursive_read_only: conflicts with a writable mount")
        if mount.propagation is not Propagation.PRIVATE:
            raise InvalidArgument(f"{field}.recursive_read_only: needs private propagation")
        if not host.recursive_readonly:
            raise InvalidArgument(f"{field}.recursive_read_only: this kernel has no recursive read-only mounts")
        options.append("rro")
    elif mount.readonly:
        options.append("ro")
    options += _mount_options(field, mount.mount_options)
    return oci.Mount(destination=target, type="bind", source=mount.host_path, options=tuple(options))


def _image_mount(field: str, target: str, mount: pod.Mount) -> oci.Mount:
    if not mount.readonly:
        raise InvalidArgument(f"{field}.readonly: an image volume is read-only")
    if mount.host_path:
        raise InvalidArgument(f"{field}.host_path: given beside image")
    if mount.propagation is not Propagation.PRIVATE:
        raise InvalidArgument(f"{field}.propagation: an image volume is private")
    if mount.image is None:
        raise InvalidArgument(f"{field}.image: missing")
    options = ("rbind", "rprivate", "ro", *_mount_options(field, mount.mount_options))
    return oci.Mount(
        destination=target, type="bind", source=mount.image.image_ref or mount.image.image, options=options
    )


def _mount_options(field: str, options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        if option not in _MOUNT_OPTIONS:
            raise InvalidArgument(
                f"{field}.mount_options: {option!r} is not one of {', '.join(sorted(_MOUNT_OPTIONS))}"
            )
    return options


def image_mounts(config: ContainerConfig) -> Mapping[str, pod.Mount]:
    """Return mount point -> the config's mount of an image, for those who prepare the trees."""
    return {
        target_of("mounts.container_path", mount.container_path): mount
        for mount in config.mounts
        if mount.image is not None and (mount.image.image or mount.image.image_ref)
    }
