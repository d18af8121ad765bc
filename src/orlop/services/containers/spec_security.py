"""Capabilities, seccomp, AppArmor and SELinux of a container: what CRI asks for, against what the host can give. Pure, but for one read.

Test: tests/unit/services/containers/test_spec.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument, Unimplemented
from orlop.oci.kernelnames import CAPABILITY_BITS
from orlop.security.profiles import Profile, load_localhost, runtime_default
from orlop.services.containers.spec_inputs import Host
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerSecurity, ProfileType

DEFAULT_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


def container_capabilities(security: ContainerSecurity, host: Host) -> oci.Capabilities:
    """Return the five sets. Inheritable is empty (CVE-2022-24769) unless ambient capabilities are asked for, which need it."""
    return _capability_sets(security.capabilities, security.privileged, host.capabilities)


@lru_cache(maxsize=256)
def _capability_sets(wanted: pod.Capabilities, privileged: bool, every: tuple[str, ...]) -> oci.Capabilities:
    add = [_capability("add_capabilities", name) for name in wanted.add]
    drop = [_capability("drop_capabilities", name) for name in wanted.drop]
    ambient = [_capability("add_ambient_capabilities", name) for name in wanted.add_ambient]
    if privileged:
        chosen = set(every)
    else:
        chosen = set(every) if "ALL" in add else set(DEFAULT_CAPABILITIES)
        if "ALL" in drop:
            chosen = set()
        chosen.update(add)
        chosen.difference_update(drop)
        chosen.discard("ALL")
    lifted = set(every) if "ALL" in ambient else set(ambient)
    for name in (*add, *ambient):
        # A default that the host cannot give is left out; what was asked for by name is not.
        if name != "ALL" and name not in every:
            raise InvalidArgument(f"capabilities: {name} is not available on this host")
    chosen |= lifted
    full = tuple(name for name in every if name in chosen)
    raised = tuple(name for name in every if name in lifted)
    return oci.Capabilities(bounding=full, effective=full, permitted=full, inheritable=raised, ambient=raised)


def _capability(field: str, name: str) -> str:
    word = name.upper()
    if word == "ALL":
        return word
    full = word if word.startswith("CAP_") else "CAP_" + word
    if full not in CAPABILITY_BITS:
        raise InvalidArgument(f"capabilities.{field}: unknown capability {name!r}")
    return full


def choose_seccomp(security: ContainerSecurity, host: Host) -> Profile | None:
    """Return the container's seccomp profile, None for unconfined. Reads the file of a localhost profile: the only I/O here.

    No profile means unconfined, as in containerd: kubelet says RuntimeDefault when it wants that.
    """
    wanted = security.seccomp
    if security.privileged or wanted is None or wanted.profile_type is ProfileType.UNCONFINED:
        return None
    bounding = container_capabilities(security, host).bounding
    if wanted.profile_type is ProfileType.RUNTIME_DEFAULT:
        return runtime_default(bounding)
    ref = wanted.localhost_ref.removeprefix("localhost/")
    return load_localhost(ref, host.seccomp_directory, bounding)


def apparmor_profile(security: ContainerSecurity, host: Host, subject: str) -> str:
    wanted = security.apparmor
    kind = wanted.profile_type if wanted is not None else ProfileType.RUNTIME_DEFAULT
    if wanted is not None and kind is ProfileType.LOCALHOST:
        if not host.apparmor:
            raise FailedPrecondition(
                f"{subject}: apparmor: profile {wanted.localhost_ref!r} asked for, but this host has no AppArmor"
            )
        name = wanted.localhost_ref.removeprefix("localhost/")
        if not name:
            raise InvalidArgument(f"{subject}: apparmor.localhost_ref: empty")
        return name
    if not host.apparmor or kind is ProfileType.UNCONFINED or security.privileged:
        return ""
    return host.apparmor_default


def selinux_label(security: ContainerSecurity, host: Host, subject: str) -> str:
    wanted = security.selinux
    if wanted is None or not (wanted.user or wanted.role or wanted.type or wanted.level):
        return ""
    if not host.selinux:
        raise FailedPrecondition(f"{subject}: selinux_options given, but this host has no SELinux")
    if security.privileged:
        return ""
    if not (wanted.user and wanted.role and wanted.type and wanted.level):
        raise Unimplemented(f"{subject}: selinux_options: all of user, role, type and level are needed")
    return f"{wanted.user}:{wanted.role}:{wanted.type}:{wanted.level}"
