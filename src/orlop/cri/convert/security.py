"""Security contexts, namespaces, profiles and signals. Test: tests/unit/cri/test_convert.py."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.cri.convert import check
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb

SIGRTMIN: Final = 34
SIGRTMAX: Final = 64


def _signal_number(name: str) -> int:
    bare = name.removeprefix("SIGNAL_")
    if bare == "RUNTIME_DEFAULT":
        return 0
    for base, word, sign in ((SIGRTMIN, "SIGRTMINPLUS", 1), (SIGRTMAX, "SIGRTMAXMINUS", -1)):
        if bare.startswith(word):
            return base + sign * int(bare.removeprefix(word))
    if bare in ("SIGRTMIN", "SIGRTMAX"):
        return SIGRTMIN if bare == "SIGRTMIN" else SIGRTMAX
    return int(signal.Signals[bare])


_NUMBER_OF: Final = {value.number: _signal_number(value.name) for value in pb.Signal.DESCRIPTOR.values}
_SIGNAL_OF: Final[dict[int, int]] = {}
for _value in pb.Signal.DESCRIPTOR.values:
    # The first name of a number wins: SIGABRT before SIGIOT, SIGCHLD before SIGCLD, SIGIO before SIGPOLL.
    _SIGNAL_OF.setdefault(_NUMBER_OF[_value.number], _value.number)


def signal_in(value: int, field: str) -> int:
    """Return the Linux number of CRI's Signal, 0 for SIGNAL_RUNTIME_DEFAULT. CRI numbers the names in its own order."""
    number = _NUMBER_OF.get(value)
    if number is None:
        raise InvalidArgument(f"{field}: {value} is not a signal that CRI knows")
    return number


def signal_out(number: int) -> Any:
    """Return CRI's Signal of a Linux number; SIGNAL_RUNTIME_DEFAULT for one that CRI has no name for (32, 33)."""
    return _SIGNAL_OF.get(number, 0)


def enum_out(value: IntEnum) -> Any:
    """Return the number of an enum's member: protobuf takes it, though its type stubs ask for their own class."""
    return int(value)


def _namespaces_in(option: pb.NamespaceOption, field: str) -> pod.NamespaceOptions:
    userns = None
    if option.HasField("userns_options"):
        given = option.userns_options
        userns = pod.UserNamespace(
            mode=check.member(pod.NamespaceMode, given.mode, f"{field}.userns_options.mode"),
            uids=mappings_in(given.uids),
            gids=mappings_in(given.gids),
        )
        check.refuse(
            userns.mode in (pod.NamespaceMode.CONTAINER, pod.NamespaceMode.TARGET),
            f"{field}.userns_options.mode",
            f"{userns.mode.name} is not possible for a user namespace",
        )
    pid = check.member(pod.NamespaceMode, option.pid, f"{field}.pid")
    target = check.text(option.target_id, f"{field}.target_id", maximum=limits.NAME_BYTES)
    check.refuse(pid is pod.NamespaceMode.TARGET and not target, f"{field}.target_id", "is empty, and pid is TARGET")
    return pod.NamespaceOptions(
        network=check.member(pod.NamespaceMode, option.network, f"{field}.network"),
        pid=pid,
        ipc=check.member(pod.NamespaceMode, option.ipc, f"{field}.ipc"),
        target_id=target,
        userns=userns,
    )


def namespaces_out(options: pod.NamespaceOptions) -> pb.NamespaceOption:
    made = pb.NamespaceOption(
        network=enum_out(options.network),
        pid=enum_out(options.pid),
        ipc=enum_out(options.ipc),
        target_id=options.target_id,
    )
    if options.userns is not None:
        made.userns_options.CopyFrom(
            pb.UserNamespace(
                mode=enum_out(options.userns.mode),
                uids=mappings_out(options.userns.uids),
                gids=mappings_out(options.userns.gids),
            )
        )
    return made


def mappings_in(mappings: Iterable[pb.IDMapping]) -> tuple[pod.IdMapping, ...]:
    return tuple(
        pod.IdMapping(host_id=each.host_id, container_id=each.container_id, length=each.length) for each in mappings
    )


def mappings_out(mappings: Iterable[pod.IdMapping]) -> list[pb.IDMapping]:
    return [pb.IDMapping(host_id=each.host_id, container_id=each.container_id, length=each.length) for each in mappings]


def _selinux_in(option: pb.SELinuxOption, field: str) -> pod.SelinuxOptions:
    return pod.SelinuxOptions(
        user=check.text(option.user, f"{field}.user", maximum=limits.NAME_BYTES),
        role=check.text(option.role, f"{field}.role", maximum=limits.NAME_BYTES),
        type=check.text(option.type, f"{field}.type", maximum=limits.NAME_BYTES),
        level=check.text(option.level, f"{field}.level", maximum=limits.NAME_BYTES),
    )


def _profile_in(profile: pb.SecurityProfile, field: str) -> pod.SecurityProfile:
    kind = check.member(pod.ProfileType, profile.profile_type, f"{field}.profile_type")
    reference = check.path(profile.localhost_ref, f"{field}.localhost_ref")
    check.refuse(
        kind is pod.ProfileType.LOCALHOST and not reference,
        f"{field}.localhost_ref",
        "is empty, and profile_type is Localhost",
    )
    return pod.SecurityProfile(profile_type=kind, localhost_ref=reference)


def _old_profile_in(text: str, field: str) -> pod.SecurityProfile | None:
    """Fold the deprecated string form: "", runtime/default, docker/default, unconfined, localhost/NAME."""
    if not text:
        return None
    if text in ("runtime/default", "docker/default"):
        return pod.SecurityProfile()
    if text == "unconfined":
        return pod.SecurityProfile(profile_type=pod.ProfileType.UNCONFINED)
    kind, _, name = text.partition("/")
    if kind == "localhost" and name:
        return pod.SecurityProfile(profile_type=pod.ProfileType.LOCALHOST, localhost_ref=check.path(name, field))
    raise InvalidArgument(f"{field}: {text!r} is not runtime/default, docker/default, unconfined or localhost/NAME")


def _user_in(value: pb.Int64Value, given: bool, field: str) -> int | None:
    return check.within(value.value, field, 0, check.ID_MAX) if given else None


def _groups_in(values: Iterable[int], field: str) -> tuple[int, ...]:
    return tuple(check.within(value, f"{field}[{index}]", 0, check.ID_MAX) for index, value in enumerate(values))


def sandbox_security_in(context: pb.LinuxSandboxSecurityContext, field: str) -> pod.SandboxSecurity:
    user = _user_in(context.run_as_user, context.HasField("run_as_user"), f"{field}.run_as_user")
    group = _user_in(context.run_as_group, context.HasField("run_as_group"), f"{field}.run_as_group")
    check.refuse(group is not None and user is None, f"{field}.run_as_group", "is given without run_as_user")
    seccomp = _old_profile_in(context.seccomp_profile_path, f"{field}.seccomp_profile_path")
    if context.HasField("seccomp"):
        seccomp = _profile_in(context.seccomp, f"{field}.seccomp")
    return pod.SandboxSecurity(
        namespaces=_namespaces_in(context.namespace_options, f"{field}.namespace_options"),
        selinux=_selinux_in(context.selinux_options, f"{field}.selinux_options")
        if context.HasField("selinux_options")
        else None,
        run_as_user=user,
        run_as_group=group,
        readonly_rootfs=context.readonly_rootfs,
        supplemental_groups=_groups_in(context.supplemental_groups, f"{field}.supplemental_groups"),
        supplemental_groups_policy=check.member(
            pod.GroupsPolicy, context.supplemental_groups_policy, f"{field}.supplemental_groups_policy"
        ),
        privileged=context.privileged,
        seccomp=seccomp,
        apparmor=_profile_in(context.apparmor, f"{field}.apparmor") if context.HasField("apparmor") else None,
    )


def container_security_in(context: pb.LinuxContainerSecurityContext, field: str) -> pod.ContainerSecurity:
    user = _user_in(context.run_as_user, context.HasField("run_as_user"), f"{field}.run_as_user")
    group = _user_in(context.run_as_group, context.HasField("run_as_group"), f"{field}.run_as_group")
    name = check.text(context.run_as_username, f"{field}.run_as_username", maximum=limits.NAME_BYTES)
    check.refuse(user is not None and bool(name), f"{field}.run_as_username", "is given together with run_as_user")
    check.refuse(
        group is not None and user is None and not name,
        f"{field}.run_as_group",
        "is given without run_as_user or run_as_username",
    )
    seccomp = _old_profile_in(context.seccomp_profile_path, f"{field}.seccomp_profile_path")
    if context.HasField("seccomp"):
        seccomp = _profile_in(context.seccomp, f"{field}.seccomp")
    apparmor = _old_profile_in(context.apparmor_profile, f"{field}.apparmor_profile")
    if context.HasField("apparmor"):
        apparmor = _profile_in(context.apparmor, f"{field}.apparmor")
    wanted = context.capabilities
    return pod.ContainerSecurity(
        capabilities=pod.Capabilities(
            add=check.texts(wanted.add_capabilities, f"{field}.capabilities.add_capabilities"),
            drop=check.texts(wanted.drop_capabilities, f"{field}.capabilities.drop_capabilities"),
            add_ambient=check.texts(wanted.add_ambient_capabilities, f"{field}.capabilities.add_ambient_capabilities"),
        ),
        privileged=context.privileged,
        namespaces=_namespaces_in(context.namespace_options, f"{field}.namespace_options"),
        selinux=_selinux_in(context.selinux_options, f"{field}.selinux_options")
        if context.HasField("selinux_options")
        else None,
        run_as_user=user,
        run_as_group=group,
        run_as_username=name,
        readonly_rootfs=context.readonly_rootfs,
        supplemental_groups=_groups_in(context.supplemental_groups, f"{field}.supplemental_groups"),
        supplemental_groups_policy=check.member(
            pod.GroupsPolicy, context.supplemental_groups_policy, f"{field}.supplemental_groups_policy"
        ),
        no_new_privs=context.no_new_privs,
        masked_paths=check.texts(context.masked_paths, f"{field}.masked_paths", check.path),
        readonly_paths=check.texts(context.readonly_paths, f"{field}.readonly_paths", check.path),
        seccomp=seccomp,
        apparmor=apparmor,
    )


def _selinux_out(options: pod.SelinuxOptions | None) -> pb.SELinuxOption | None:
    if options is None:
        return None
    return pb.SELinuxOption(user=options.user, role=options.role, type=options.type, level=options.level)


def _profile_out(profile: pod.SecurityProfile | None) -> pb.SecurityProfile | None:
    if profile is None:
        return None
    return pb.SecurityProfile(profile_type=enum_out(profile.profile_type), localhost_ref=profile.localhost_ref)


def _id_out(value: int | None) -> pb.Int64Value | None:
    return None if value is None else pb.Int64Value(value=value)


def sandbox_security_out(security: pod.SandboxSecurity) -> pb.LinuxSandboxSecurityContext:
    return pb.LinuxSandboxSecurityContext(
        namespace_options=namespaces_out(security.namespaces),
        selinux_options=_selinux_out(security.selinux),
        run_as_user=_id_out(security.run_as_user),
        run_as_group=_id_out(security.run_as_group),
        readonly_rootfs=security.readonly_rootfs,
        supplemental_groups=security.supplemental_groups,
        supplemental_groups_policy=enum_out(security.supplemental_groups_policy),
        privileged=security.privileged,
        seccomp=_profile_out(security.seccomp),
        apparmor=_profile_out(security.apparmor),
    )


def container_security_out(security: pod.ContainerSecurity) -> pb.LinuxContainerSecurityContext:
    return pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=security.capabilities.add,
            drop_capabilities=security.capabilities.drop,
            add_ambient_capabilities=security.capabilities.add_ambient,
        ),
        privileged=security.privileged,
        namespace_options=namespaces_out(security.namespaces),
        selinux_options=_selinux_out(security.selinux),
        run_as_user=_id_out(security.run_as_user),
        run_as_group=_id_out(security.run_as_group),
        run_as_username=security.run_as_username,
        readonly_rootfs=security.readonly_rootfs,
        supplemental_groups=security.supplemental_groups,
        supplemental_groups_policy=enum_out(security.supplemental_groups_policy),
        no_new_privs=security.no_new_privs,
        masked_paths=security.masked_paths,
        readonly_paths=security.readonly_paths,
        seccomp=_profile_out(security.seccomp),
        apparmor=_profile_out(security.apparmor),
    )
