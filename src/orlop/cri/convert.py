"""Protobuf to the domain types of specs/pod.py and back; the only place that knows both.

The way in checks what any reader of the request could check without knowing the node: required fields, ranges, enum numbers, NUL
and newlines, sizes, fields that exclude each other. What fails raises InvalidArgument that begins with the path of the field. What
needs facts of the node (images, namespaces, the kernel) is for services/. The way out never fails. Nothing here does I/O.
Test: tests/unit/cri/test_convert.py.
"""

from __future__ import annotations

import ipaddress
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any, Final, TypeVar

import msgspec

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb

E = TypeVar("E", bound=IntEnum)

HOSTNAME_BYTES: Final = 64
"""HOST_NAME_MAX of Linux."""
ID_MAX: Final = 0xFFFF_FFFE
"""The last uid or gid; the kernel keeps 0xffffffff for "no change"."""
BIND_OPTIONS: Final = frozenset({"noexec", "nodev", "nosuid"})
PROTOCOLS: Final = ("tcp", "udp", "sctp")
SIGRTMIN: Final = 34
SIGRTMAX: Final = 64


# --- Scalars -----------------------------------------------------------------------------------------------------------------


def _text(value: str, field: str, *, maximum: int = limits.ANNOTATION_BYTES, lines: bool = False) -> str:
    """Check one string: no NUL, no newline unless ``lines``, not longer than ``maximum`` bytes."""
    if "\0" in value:
        raise InvalidArgument(f"{field}: contains a NUL character")
    if not lines and ("\n" in value or "\r" in value):
        raise InvalidArgument(f"{field}: contains a line break")
    if len(value) > maximum or len(value.encode()) > maximum:
        raise InvalidArgument(f"{field}: is longer than {maximum} bytes")
    return value


def _path(value: str, field: str) -> str:
    """Check a path: a file name may hold a newline, so only NUL and length are refused."""
    return _text(value, field, maximum=4096, lines=True)


def _name(value: str, field: str) -> str:
    if not value:
        raise InvalidArgument(f"{field}: is empty")
    return _text(value, field, maximum=limits.NAME_BYTES)


def _texts(values: Iterable[str], field: str, check: Callable[[str, str], str] = _text) -> tuple[str, ...]:
    return tuple(check(value, f"{field}[{index}]") for index, value in enumerate(values))


def _any_text(value: str, field: str) -> str:
    return _text(value, field, lines=True)


def _labels(values: Mapping[str, str], field: str, maximum: int) -> dict[str, str]:
    """Check only the size: labels and annotations are the caller's and are given back unaltered."""
    if not values:
        return {}
    found = dict(values)
    if sum(len(key.encode()) + len(value.encode()) for key, value in found.items()) > maximum:
        raise InvalidArgument(f"{field}: are larger than {maximum} bytes together")
    return found


def _member(kind: type[E], value: int, field: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise InvalidArgument(f"{field}: {value} is not a {kind.__name__} that CRI knows") from None


def _range(value: int, field: str, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidArgument(f"{field}: {value} is not between {low} and {high}")
    return value


def _refuse(given: bool, field: str, reason: str) -> None:
    if given:
        raise InvalidArgument(f"{field}: {reason}")


# --- Signals -----------------------------------------------------------------------------------------------------------------


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


def _enum(value: IntEnum) -> Any:
    """Return the number of an enum's member: protobuf takes it, though its type stubs ask for their own class."""
    return int(value)


# --- Security ----------------------------------------------------------------------------------------------------------------


def _namespaces_in(option: pb.NamespaceOption, field: str) -> pod.NamespaceOptions:
    userns = None
    if option.HasField("userns_options"):
        given = option.userns_options
        userns = pod.UserNamespace(
            mode=_member(pod.NamespaceMode, given.mode, f"{field}.userns_options.mode"),
            uids=_mappings_in(given.uids),
            gids=_mappings_in(given.gids),
        )
        _refuse(
            userns.mode in (pod.NamespaceMode.CONTAINER, pod.NamespaceMode.TARGET),
            f"{field}.userns_options.mode",
            f"{userns.mode.name} is not possible for a user namespace",
        )
    pid = _member(pod.NamespaceMode, option.pid, f"{field}.pid")
    target = _text(option.target_id, f"{field}.target_id", maximum=limits.NAME_BYTES)
    _refuse(pid is pod.NamespaceMode.TARGET and not target, f"{field}.target_id", "is empty, and pid is TARGET")
    return pod.NamespaceOptions(
        network=_member(pod.NamespaceMode, option.network, f"{field}.network"),
        pid=pid,
        ipc=_member(pod.NamespaceMode, option.ipc, f"{field}.ipc"),
        target_id=target,
        userns=userns,
    )


def _namespaces_out(options: pod.NamespaceOptions) -> pb.NamespaceOption:
    made = pb.NamespaceOption(
        network=_enum(options.network),
        pid=_enum(options.pid),
        ipc=_enum(options.ipc),
        target_id=options.target_id,
    )
    if options.userns is not None:
        made.userns_options.CopyFrom(
            pb.UserNamespace(
                mode=_enum(options.userns.mode),
                uids=_mappings_out(options.userns.uids),
                gids=_mappings_out(options.userns.gids),
            )
        )
    return made


def _mappings_in(mappings: Iterable[pb.IDMapping]) -> tuple[pod.IdMapping, ...]:
    return tuple(
        pod.IdMapping(host_id=each.host_id, container_id=each.container_id, length=each.length) for each in mappings
    )


def _mappings_out(mappings: Iterable[pod.IdMapping]) -> list[pb.IDMapping]:
    return [pb.IDMapping(host_id=each.host_id, container_id=each.container_id, length=each.length) for each in mappings]


def _selinux_in(option: pb.SELinuxOption, field: str) -> pod.SelinuxOptions:
    return pod.SelinuxOptions(
        user=_text(option.user, f"{field}.user", maximum=limits.NAME_BYTES),
        role=_text(option.role, f"{field}.role", maximum=limits.NAME_BYTES),
        type=_text(option.type, f"{field}.type", maximum=limits.NAME_BYTES),
        level=_text(option.level, f"{field}.level", maximum=limits.NAME_BYTES),
    )


def _profile_in(profile: pb.SecurityProfile, field: str) -> pod.SecurityProfile:
    kind = _member(pod.ProfileType, profile.profile_type, f"{field}.profile_type")
    reference = _path(profile.localhost_ref, f"{field}.localhost_ref")
    _refuse(
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
        return pod.SecurityProfile(profile_type=pod.ProfileType.LOCALHOST, localhost_ref=_path(name, field))
    raise InvalidArgument(f"{field}: {text!r} is not runtime/default, docker/default, unconfined or localhost/NAME")


def _user_in(value: pb.Int64Value, given: bool, field: str) -> int | None:
    return _range(value.value, field, 0, ID_MAX) if given else None


def _groups_in(values: Iterable[int], field: str) -> tuple[int, ...]:
    return tuple(_range(value, f"{field}[{index}]", 0, ID_MAX) for index, value in enumerate(values))


def _sandbox_security_in(context: pb.LinuxSandboxSecurityContext, field: str) -> pod.SandboxSecurity:
    user = _user_in(context.run_as_user, context.HasField("run_as_user"), f"{field}.run_as_user")
    group = _user_in(context.run_as_group, context.HasField("run_as_group"), f"{field}.run_as_group")
    _refuse(group is not None and user is None, f"{field}.run_as_group", "is given without run_as_user")
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
        supplemental_groups_policy=_member(
            pod.GroupsPolicy, context.supplemental_groups_policy, f"{field}.supplemental_groups_policy"
        ),
        privileged=context.privileged,
        seccomp=seccomp,
        apparmor=_profile_in(context.apparmor, f"{field}.apparmor") if context.HasField("apparmor") else None,
    )


def _container_security_in(context: pb.LinuxContainerSecurityContext, field: str) -> pod.ContainerSecurity:
    user = _user_in(context.run_as_user, context.HasField("run_as_user"), f"{field}.run_as_user")
    group = _user_in(context.run_as_group, context.HasField("run_as_group"), f"{field}.run_as_group")
    name = _text(context.run_as_username, f"{field}.run_as_username", maximum=limits.NAME_BYTES)
    _refuse(user is not None and bool(name), f"{field}.run_as_username", "is given together with run_as_user")
    _refuse(
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
            add=_texts(wanted.add_capabilities, f"{field}.capabilities.add_capabilities"),
            drop=_texts(wanted.drop_capabilities, f"{field}.capabilities.drop_capabilities"),
            add_ambient=_texts(wanted.add_ambient_capabilities, f"{field}.capabilities.add_ambient_capabilities"),
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
        supplemental_groups_policy=_member(
            pod.GroupsPolicy, context.supplemental_groups_policy, f"{field}.supplemental_groups_policy"
        ),
        no_new_privs=context.no_new_privs,
        masked_paths=_texts(context.masked_paths, f"{field}.masked_paths", _path),
        readonly_paths=_texts(context.readonly_paths, f"{field}.readonly_paths", _path),
        seccomp=seccomp,
        apparmor=apparmor,
    )


# --- Resources ---------------------------------------------------------------------------------------------------------------

LONG: Final = (1 << 63) - 1


def resources_in(given: pb.LinuxContainerResources, field: str) -> pod.LinuxResources:
    """Check resources; 0 and empty mean "not given", -1 "unlimited" where the kernel has that."""
    unified = dict(given.unified)
    for key, value in unified.items():
        # The key becomes the name of a file in the cgroup.
        if not key or "/" in key or "\0" in key or key in (".", ".."):
            raise InvalidArgument(f"{field}.unified: {key!r} is not the name of a cgroup file")
        _any_text(value, f"{field}.unified[{key}]")
    limits_given = []
    for index, each in enumerate(given.hugepage_limits):
        where = f"{field}.hugepage_limits[{index}].page_size"
        _refuse("/" in each.page_size, where, f"{each.page_size!r} is not a page size")
        limits_given.append(pod.HugepageLimit(page_size=_name(each.page_size, where), limit=each.limit))
    return pod.LinuxResources(
        cpu_period=_range(given.cpu_period, f"{field}.cpu_period", 0, LONG),
        cpu_quota=_range(given.cpu_quota, f"{field}.cpu_quota", -1, LONG),
        cpu_shares=_range(given.cpu_shares, f"{field}.cpu_shares", 0, LONG),
        memory_limit=_range(given.memory_limit_in_bytes, f"{field}.memory_limit_in_bytes", -1, LONG),
        memory_swap_limit=_range(given.memory_swap_limit_in_bytes, f"{field}.memory_swap_limit_in_bytes", -1, LONG),
        oom_score_adj=_range(given.oom_score_adj, f"{field}.oom_score_adj", -1000, 1000),
        cpuset_cpus=_text(given.cpuset_cpus, f"{field}.cpuset_cpus"),
        cpuset_mems=_text(given.cpuset_mems, f"{field}.cpuset_mems"),
        hugepage_limits=tuple(limits_given),
        unified=unified,
    )


def resources_out(resources: pod.LinuxResources) -> pb.LinuxContainerResources:
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period,
        cpu_quota=resources.cpu_quota,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit,
        memory_swap_limit_in_bytes=resources.memory_swap_limit,
        oom_score_adj=resources.oom_score_adj,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        hugepage_limits=[
            pb.HugepageLimit(page_size=each.page_size, limit=each.limit) for each in resources.hugepage_limits
        ],
        unified=resources.unified,
    )


# --- Sandboxes, in -----------------------------------------------------------------------------------------------------------


def sandbox_config_in(config: pb.PodSandboxConfig, field: str = "config") -> pod.SandboxConfig:
    """Return the domain form of a sandbox's config. Raises InvalidArgument naming the field."""
    _refuse(not config.HasField("metadata"), f"{field}.metadata", "is missing")
    _refuse(config.HasField("windows"), f"{field}.windows", "is not possible on Linux")
    linux = config.linux
    sysctls = dict(linux.sysctls)
    for key, value in sysctls.items():
        _name(key, f"{field}.linux.sysctls")
        _text(value, f"{field}.linux.sysctls[{key}]")
    return pod.SandboxConfig(
        metadata=_sandbox_metadata_in(config.metadata, f"{field}.metadata"),
        hostname=_text(config.hostname, f"{field}.hostname", maximum=HOSTNAME_BYTES),
        log_directory=_path(config.log_directory, f"{field}.log_directory"),
        dns=_dns_in(config.dns_config, f"{field}.dns_config") if config.HasField("dns_config") else None,
        port_mappings=tuple(
            _port_in(each, f"{field}.port_mappings[{index}]") for index, each in enumerate(config.port_mappings)
        ),
        labels=_labels(config.labels, f"{field}.labels", limits.LABEL_BYTES),
        annotations=_labels(config.annotations, f"{field}.annotations", limits.ANNOTATION_BYTES),
        cgroup_parent=_path(linux.cgroup_parent, f"{field}.linux.cgroup_parent"),
        sysctls=sysctls,
        security=_sandbox_security_in(linux.security_context, f"{field}.linux.security_context"),
        overhead=resources_in(linux.overhead, f"{field}.linux.overhead") if linux.HasField("overhead") else None,
        resources=resources_in(linux.resources, f"{field}.linux.resources") if linux.HasField("resources") else None,
    )


def _sandbox_metadata_in(metadata: pb.PodSandboxMetadata, field: str) -> pod.SandboxMetadata:
    return pod.SandboxMetadata(
        name=_name(metadata.name, f"{field}.name"),
        uid=_text(metadata.uid, f"{field}.uid", maximum=limits.NAME_BYTES),
        namespace=_text(metadata.namespace, f"{field}.namespace", maximum=limits.NAME_BYTES),
        attempt=metadata.attempt,
    )


def _dns_in(dns: pb.DNSConfig, field: str) -> pod.DnsConfig:
    # These become lines of /etc/resolv.conf: a line break or a space would be another directive or another server.
    return pod.DnsConfig(
        servers=_texts(dns.servers, f"{field}.servers", _word),
        searches=_texts(dns.searches, f"{field}.searches", _word),
        options=_texts(dns.options, f"{field}.options", _word),
    )


def _word(value: str, field: str) -> str:
    _refuse(len(value.split()) != 1, field, f"{value!r} is not one word")
    return _text(value, field, maximum=limits.NAME_BYTES)


def _port_in(mapping: pb.PortMapping, field: str) -> pod.PortMapping:
    _range(mapping.protocol, f"{field}.protocol", 0, len(PROTOCOLS) - 1)
    if mapping.host_ip:
        try:
            ipaddress.ip_address(mapping.host_ip)
        except ValueError:
            raise InvalidArgument(f"{field}.host_ip: {mapping.host_ip!r} is not an IP address") from None
    return pod.PortMapping(
        protocol=PROTOCOLS[mapping.protocol],
        container_port=_range(mapping.container_port, f"{field}.container_port", 0, 65535),
        host_port=_range(mapping.host_port, f"{field}.host_port", 0, 65535),
        host_ip=mapping.host_ip,
    )


# --- Containers, in ----------------------------------------------------------------------------------------------------------


def container_config_in(config: pb.ContainerConfig, field: str = "config") -> pod.ContainerConfig:
    """Return the domain form of a container's config. Raises InvalidArgument naming the field."""
    _refuse(not config.HasField("metadata"), f"{field}.metadata", "is missing")
    _refuse(config.HasField("windows"), f"{field}.windows", "is not possible on Linux")
    _refuse(not config.image.image, f"{field}.image.image", "is empty")
    return pod.ContainerConfig(
        metadata=pod.ContainerMetadata(
            name=_name(config.metadata.name, f"{field}.metadata.name"), attempt=config.metadata.attempt
        ),
        image=image_spec_in(config.image, f"{field}.image"),
        command=_texts(config.command, f"{field}.command", _any_text),
        args=_texts(config.args, f"{field}.args", _any_text),
        working_dir=_path(config.working_dir, f"{field}.working_dir"),
        envs=tuple(_env_in(each, f"{field}.envs[{index}]") for index, each in enumerate(config.envs)),
        mounts=tuple(_mount_in(each, f"{field}.mounts[{index}]") for index, each in enumerate(config.mounts)),
        devices=tuple(_device_in(each, f"{field}.devices[{index}]") for index, each in enumerate(config.devices)),
        cdi_devices=_texts((each.name for each in config.CDI_devices), f"{field}.CDI_devices", _name),
        labels=_labels(config.labels, f"{field}.labels", limits.LABEL_BYTES),
        annotations=_labels(config.annotations, f"{field}.annotations", limits.ANNOTATION_BYTES),
        log_path=_path(config.log_path, f"{field}.log_path"),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        resources=resources_in(config.linux.resources, f"{field}.linux.resources"),
        security=_container_security_in(config.linux.security_context, f"{field}.linux.security_context"),
        stop_signal=signal_in(config.stop_signal, f"{field}.stop_signal"),
    )


def _env_in(env: pb.KeyValue, field: str) -> pod.KeyValue:
    _refuse(not env.key, f"{field}.key", "is empty")
    _refuse("=" in env.key, f"{field}.key", f"{env.key!r} contains '='")
    _refuse(b"\0" in env.value, f"{field}.value", "contains a NUL byte")
    return pod.KeyValue(key=_any_text(env.key, f"{field}.key"), value=env.value)


def _mount_in(mount: pb.Mount, field: str) -> pod.Mount:
    propagation = _member(pod.Propagation, mount.propagation, f"{field}.propagation")
    of_image = mount.HasField("image") and bool(mount.image.image)
    _refuse(not mount.container_path, f"{field}.container_path", "is empty")
    _refuse(not mount.host_path and not of_image, f"{field}.host_path", "is empty, and no image is given")
    _refuse(bool(mount.host_path) and of_image, f"{field}.host_path", "is given together with image")
    _refuse(of_image and not mount.readonly, f"{field}.readonly", "must be true: an image volume can't be written")
    _refuse(bool(mount.image_sub_path) and not of_image, f"{field}.image_sub_path", "is given without image")
    if mount.recursive_read_only:
        where = f"{field}.recursive_read_only"
        _refuse(not mount.readonly, where, "needs readonly")
        _refuse(propagation is not pod.Propagation.PRIVATE, where, f"needs PROPAGATION_PRIVATE, not {propagation.name}")
    for index, option in enumerate(mount.mount_options):
        _refuse(
            option not in BIND_OPTIONS, f"{field}.mount_options[{index}]", f"{option!r} is not noexec, nodev or nosuid"
        )
    return pod.Mount(
        container_path=_path(mount.container_path, f"{field}.container_path"),
        host_path=_path(mount.host_path, f"{field}.host_path"),
        readonly=mount.readonly,
        recursive_read_only=mount.recursive_read_only,
        selinux_relabel=mount.selinux_relabel,
        propagation=propagation,
        uid_mappings=_mappings_in(mount.uidMappings),
        gid_mappings=_mappings_in(mount.gidMappings),
        image=image_spec_in(mount.image, f"{field}.image") if of_image else None,
        image_sub_path=_path(mount.image_sub_path, f"{field}.image_sub_path"),
        mount_options=tuple(mount.mount_options),
    )


def _device_in(device: pb.Device, field: str) -> pod.Device:
    _refuse(not device.host_path, f"{field}.host_path", "is empty")
    _refuse(
        not set(device.permissions) <= set("rwm"), f"{field}.permissions", f"{device.permissions!r} is not of r, w, m"
    )
    return pod.Device(
        container_path=_path(device.container_path or device.host_path, f"{field}.container_path"),
        host_path=_path(device.host_path, f"{field}.host_path"),
        permissions=device.permissions or "rwm",
    )


def image_spec_in(spec: pb.ImageSpec, field: str) -> pod.ImageSpec:
    return pod.ImageSpec(
        image=_text(spec.image, f"{field}.image", maximum=limits.NAME_BYTES),
        annotations=_labels(spec.annotations, f"{field}.annotations", limits.ANNOTATION_BYTES),
        user_specified_image=_text(
            spec.user_specified_image, f"{field}.user_specified_image", maximum=limits.NAME_BYTES
        ),
        runtime_handler=_text(spec.runtime_handler, f"{field}.runtime_handler", maximum=limits.NAME_BYTES),
        image_ref=_text(spec.image_ref, f"{field}.image_ref", maximum=limits.NAME_BYTES),
    )


# --- Out: statuses and lists -------------------------------------------------------------------------------------------------


def json_text(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def info_out(info: Mapping[str, object]) -> dict[str, str]:
    """Return verbose facts as crictl expects them: one entry ``info`` that is a JSON object."""
    return {"info": json_text(info)} if info else {}


def _sandbox_metadata_out(metadata: pod.SandboxMetadata) -> pb.PodSandboxMetadata:
    return pb.PodSandboxMetadata(
        name=metadata.name, uid=metadata.uid, namespace=metadata.namespace, attempt=metadata.attempt
    )


def sandbox_out(sandbox: pod.Sandbox) -> pb.PodSandbox:
    """Return a sandbox as ListPodSandbox shows it."""
    config = sandbox.config
    return pb.PodSandbox(
        id=sandbox.id,
        metadata=_sandbox_metadata_out(config.metadata),
        state=_enum(sandbox.state),
        created_at=sandbox.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.runtime_handler,
    )


def sandbox_status_out(sandbox: pod.Sandbox) -> pb.PodSandboxStatus:
    """Return a sandbox as PodSandboxStatus shows it."""
    config = sandbox.config
    status = pb.PodSandboxStatus(
        id=sandbox.id,
        metadata=_sandbox_metadata_out(config.metadata),
        state=_enum(sandbox.state),
        created_at=sandbox.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=sandbox.runtime_handler,
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=_namespaces_out(config.security.namespaces))),
        network=pb.PodSandboxNetworkStatus(),
    )
    if sandbox.ips:
        status.network.ip = sandbox.ips[0]
        for address in sandbox.ips[1:]:
            status.network.additional_ips.add(ip=address)
    return status


def _image_spec_out(spec: pod.ImageSpec) -> pb.ImageSpec:
    return pb.ImageSpec(
        image=spec.image,
        annotations=spec.annotations,
        user_specified_image=spec.user_specified_image,
        runtime_handler=spec.runtime_handler,
        image_ref=spec.image_ref,
    )


def _shown_image(container: pod.Container) -> pb.ImageSpec:
    """kubelet creates by image id and shows this name to people: prefer what its user wrote over an id."""
    spec = _image_spec_out(container.config.image)
    if spec.user_specified_image and spec.image in (container.image_id, container.image_id.removeprefix("sha256:")):
        spec.image = spec.user_specified_image
    return spec


def _container_metadata_out(metadata: pod.ContainerMetadata) -> pb.ContainerMetadata:
    return pb.ContainerMetadata(name=metadata.name, attempt=metadata.attempt)


def container_out(container: pod.Container) -> pb.Container:
    """Return a container as ListContainers shows it."""
    config = container.config
    return pb.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox_id,
        metadata=_container_metadata_out(config.metadata),
        image=_shown_image(container),
        image_ref=container.image_id,
        image_id=container.image_id,
        state=_enum(container.state),
        created_at=container.created_at,
        labels=config.labels,
        annotations=config.annotations,
    )


def container_status_out(container: pod.Container) -> pb.ContainerStatus:
    """Return a container as ContainerStatus shows it."""
    config = container.config
    status = pb.ContainerStatus(
        id=container.id,
        metadata=_container_metadata_out(config.metadata),
        state=_enum(container.state),
        created_at=container.created_at,
        started_at=container.started_at,
        finished_at=container.finished_at,
        exit_code=container.exit_code,
        image=_shown_image(container),
        image_ref=container.image_id,
        image_id=container.image_id,
        reason=container.reason,
        message=container.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=[_mount_out(each, container.mount_digests) for each in config.mounts],
        log_path=container.log_path,
        resources=pb.ContainerResources(linux=resources_out(container.resources)),
        stop_signal=signal_out(container.stop_signal),
    )
    if container.user is not None:
        status.user.linux.CopyFrom(
            pb.LinuxContainerUser(
                uid=container.user.uid,
                gid=container.user.gid,
                supplemental_groups=container.user.supplemental_groups,
            )
        )
    return status


def _mount_out(mount: pod.Mount, digests: Mapping[str, str]) -> pb.Mount:
    made = pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        recursive_read_only=mount.recursive_read_only,
        selinux_relabel=mount.selinux_relabel,
        propagation=_enum(mount.propagation),
        uidMappings=_mappings_out(mount.uid_mappings),
        gidMappings=_mappings_out(mount.gid_mappings),
        image_sub_path=mount.image_sub_path,
        mount_options=mount.mount_options,
    )
    if mount.image is not None:
        made.image.CopyFrom(_image_spec_out(mount.image))
        made.image.image_ref = digests.get(mount.container_path, mount.image.image_ref)
    return made


def sandbox_status_response(
    sandbox: pod.Sandbox, containers: Iterable[pod.Container], verbose: bool
) -> pb.PodSandboxStatusResponse:
    """Return the whole answer. kubelet's event-driven PLEG takes ``timestamp`` and ``containers_statuses`` together or not at all."""
    return pb.PodSandboxStatusResponse(
        status=sandbox_status_out(sandbox),
        containers_statuses=[container_status_out(each) for each in containers],
        timestamp=time.time_ns(),
        info=info_out(sandbox.info) if verbose else None,
    )


def event_out(event: pod.Event) -> pb.ContainerEventResponse:
    """Return an event with the statuses of that moment."""
    made = pb.ContainerEventResponse(
        container_id=event.container_id,
        container_event_type=_enum(event.type),
        created_at=event.created_at,
        containers_statuses=[container_status_out(each) for each in event.containers],
    )
    if event.sandbox is not None:
        made.pod_sandbox_status.CopyFrom(sandbox_status_out(event.sandbox))
    return made


# --- Out: figures ------------------------------------------------------------------------------------------------------------


def _number(value: int | None) -> pb.UInt64Value | None:
    return None if value is None else pb.UInt64Value(value=max(0, value))


def _psi(psi: pod.Psi | None) -> pb.PsiStats | None:
    if psi is None:
        return None
    return pb.PsiStats(Full=_psi_data(psi.full), Some=_psi_data(psi.some))


def _psi_data(data: pod.PsiData) -> pb.PsiData:
    return pb.PsiData(Total=data.total, Avg10=data.avg10, Avg60=data.avg60, Avg300=data.avg300)


def _cpu(stats: pod.CpuStats | None) -> pb.CpuUsage | None:
    if stats is None:
        return None
    return pb.CpuUsage(
        timestamp=stats.timestamp,
        usage_core_nano_seconds=_number(stats.usage_core_nano_seconds),
        usage_nano_cores=_number(stats.usage_nano_cores),
        psi=_psi(stats.psi),
    )


def _memory(stats: pod.MemoryStats | None) -> pb.MemoryUsage | None:
    if stats is None:
        return None
    return pb.MemoryUsage(
        timestamp=stats.timestamp,
        working_set_bytes=_number(stats.working_set),
        available_bytes=_number(stats.available),
        usage_bytes=_number(stats.usage),
        rss_bytes=_number(stats.rss),
        page_faults=_number(stats.page_faults),
        major_page_faults=_number(stats.major_page_faults),
        psi=_psi(stats.psi),
    )


def _swap(stats: pod.SwapStats | None) -> pb.SwapUsage | None:
    if stats is None:
        return None
    return pb.SwapUsage(
        timestamp=stats.timestamp,
        swap_available_bytes=_number(stats.available),
        swap_usage_bytes=_number(stats.usage),
    )


def _io(stats: pod.IoStats | None) -> pb.IoUsage | None:
    return None if stats is None else pb.IoUsage(timestamp=stats.timestamp, psi=_psi(stats.psi))


def filesystem_out(stats: pod.FilesystemStats) -> pb.FilesystemUsage:
    return pb.FilesystemUsage(
        timestamp=stats.timestamp,
        fs_id=pb.FilesystemIdentifier(mountpoint=stats.mountpoint),
        used_bytes=_number(stats.used_bytes),
        inodes_used=_number(stats.inodes_used),
    )


def container_stats_out(stats: pod.ContainerStats) -> pb.ContainerStats:
    container = stats.container
    return pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id=container.id,
            metadata=_container_metadata_out(container.config.metadata),
            labels=container.config.labels,
            annotations=container.config.annotations,
        ),
        cpu=_cpu(stats.cpu),
        memory=_memory(stats.memory),
        swap=_swap(stats.swap),
        io=_io(stats.io),
        writable_layer=None if stats.writable_layer is None else filesystem_out(stats.writable_layer),
    )


def sandbox_stats_out(stats: pod.SandboxStats) -> pb.PodSandboxStats:
    sandbox = stats.sandbox
    linux = pb.LinuxPodSandboxStats(
        cpu=_cpu(stats.cpu),
        memory=_memory(stats.memory),
        io=_io(stats.io),
        containers=[container_stats_out(each) for each in stats.containers],
    )
    if stats.interfaces:
        first, *others = (
            pb.NetworkInterfaceUsage(
                name=each.name,
                rx_bytes=_number(each.rx_bytes),
                rx_errors=_number(each.rx_errors),
                tx_bytes=_number(each.tx_bytes),
                tx_errors=_number(each.tx_errors),
            )
            for each in stats.interfaces
        )
        # containerd lists only the others in ``interfaces``; cAdvisor-minded readers want the default one there too, but kubelet
        # adds the default to the list itself, so it would count twice.
        linux.network.CopyFrom(
            pb.NetworkUsage(timestamp=stats.network_timestamp, default_interface=first, interfaces=others)
        )
    if stats.process_count is not None:
        linux.process.CopyFrom(pb.ProcessUsage(timestamp=_timestamp(stats), process_count=_number(stats.process_count)))
    return pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            id=sandbox.id,
            metadata=_sandbox_metadata_out(sandbox.config.metadata),
            labels=sandbox.config.labels,
            annotations=sandbox.config.annotations,
        ),
        linux=linux,
    )


def _timestamp(stats: pod.SandboxStats) -> int:
    for part in (stats.cpu, stats.memory):
        if part is not None:
            return part.timestamp
    return stats.network_timestamp or time.time_ns()
