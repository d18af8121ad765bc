"""What a runtime spec is built from beside CRI's config: the image's defaults, the pod's files, what the node is. Plain values."""

from __future__ import annotations

from typing import Final

import msgspec

from orlop.specs import runtime as oci


class ImageDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What an image's config says about its processes."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = {}


class PodFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the pod that every container sees; an empty path is left out."""

    hosts: str = ""
    resolv_conf: str = ""
    hostname: str = ""


NO_FILES: Final = PodFiles()


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What this node is and can."""

    capabilities: tuple[str, ...]
    """All that the kernel has and the daemon may give: what ``ALL`` and privileged mean. Sorted by number."""
    hostname: str = ""
    cgroup_v2: bool = True
    apparmor: bool = False
    apparmor_default: str = ""
    """Name of the loaded default profile; empty: none is loaded, RuntimeDefault confines nothing."""
    selinux: bool = False
    hugetlb: bool = True
    hugepage_sizes: tuple[str, ...] | None = None
    """The page sizes that this kernel has, as cgroups write them (``2MB``); None: not known, the cgroup decides."""
    swap: bool = True
    recursive_readonly: bool = True
    idmapped_mounts: bool = True
    devices: tuple[oci.Device, ...] = ()
    """All device nodes of the host, for privileged containers."""
    seccomp_directory: str = ""
    """Where relative names of localhost seccomp profiles are looked up."""
