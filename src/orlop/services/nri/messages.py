"""Pods and containers as NRI's messages. Pure: rows and specs in, messages out. Test: tests/unit/services/nri/test_adjust.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.services.nri.resources import from_cri, from_spec
from orlop.specs import runtime as oci
from orlop.specs.nri_gen import nri_pb2 as nri
from orlop.specs.pod import ContainerState, ContainerUser, SecurityProfile

STATES: Final = {
    ContainerState.CREATED: nri.CONTAINER_CREATED,
    ContainerState.RUNNING: nri.CONTAINER_RUNNING,
    ContainerState.EXITED: nri.CONTAINER_STOPPED,
    ContainerState.UNKNOWN: nri.CONTAINER_UNKNOWN,
}
_HOOKS: Final = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")


def pod_message(row: SandboxRow) -> nri.PodSandbox:
    """Return a sandbox. Its pid is its monitor's, which lives in the pod's namespaces."""
    config = row.config
    linux = nri.LinuxPodSandbox(
        pod_overhead=from_cri(config.overhead) if config.overhead is not None else None,
        pod_resources=from_cri(config.resources) if config.resources is not None else None,
        cgroup_parent=row.cgroup_parent,
    )
    if row.monitor_pid:
        kinds = () if row.host_network else (("network", "net"), ("uts", "uts"))
        for kind, file in (*kinds, ("ipc", "ipc")):
            linux.namespaces.add(type=kind, path=f"/proc/{row.monitor_pid}/ns/{file}")
    return nri.PodSandbox(
        id=row.id,
        name=config.metadata.name,
        uid=config.metadata.uid,
        namespace=config.metadata.namespace,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=row.handler,
        linux=linux,
        pid=row.monitor_pid,
        ips=row.ips,
    )


def container_message(
    row: ContainerRow, spec: oci.RuntimeSpec | None, user: ContainerUser | None = None
) -> nri.Container:
    """Return a container: of a row that is stored, or of one that is being created, with the spec as it is now."""
    config = row.config
    made = nri.Container(
        id=row.id,
        pod_sandbox_id=row.sandbox_id,
        name=config.metadata.name,
        state=STATES[row.state],
        labels=config.labels,
        annotations=config.annotations,
        pid=row.pid,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        exit_code=row.exit_code,
        status_reason=row.reason,
        status_message=row.message,
        CDI_devices=[nri.CDIDevice(name=name) for name in config.cdi_devices],
        image=nri.Image(name=config.image.user_specified_image or config.image.image, config_digest=row.image_id),
    )
    user = user or row.user
    if user is not None:
        made.user.uid, made.user.gid = user.uid, user.gid
        made.user.additional_gids.extend(user.supplemental_groups)
    if spec is not None:
        _add_spec(made, spec)
    _set_profile(made.linux.seccomp_profile, config.security.seccomp, privileged=config.security.privileged)
    if row.created_at:
        # The spec is the one it was created with; the row knows of the updates since.
        made.linux.resources.MergeFrom(_without_lists(from_cri(row.resources)))
    return made


def _without_lists(resources: nri.LinuxResources) -> nri.LinuxResources:
    del resources.hugepage_limits[:]
    return resources


def _add_spec(made: nri.Container, spec: oci.RuntimeSpec) -> None:
    made.annotations.update(spec.annotations)
    made.mounts.extend(
        nri.Mount(destination=each.destination, type=each.type, source=each.source, options=each.options)
        for each in spec.mounts
    )
    if spec.hooks is not None:
        for kind in _HOOKS:
            for hook in getattr(spec.hooks, kind):
                shown = getattr(made.hooks, kind).add(path=hook.path, args=hook.args, env=hook.env)
                if hook.timeout is not None:
                    shown.timeout.value = hook.timeout
    process = spec.process
    if process is not None:
        made.args.extend(_text(process.args))
        made.env.extend(_text(process.env))
        made.rlimits.extend(nri.POSIXRlimit(type=each.type, hard=each.hard, soft=each.soft) for each in process.rlimits)
        if process.oom_score_adj is not None:
            made.linux.oom_score_adj.value = process.oom_score_adj
        if process.io_priority is not None:
            made.linux.io_priority.priority = process.io_priority.priority
            setattr(made.linux.io_priority, "class", getattr(nri, process.io_priority.class_))
        if process.scheduler is not None:
            _set_scheduler(made.linux.scheduler, process.scheduler)
    if spec.linux is not None:
        _add_linux(made.linux, spec.linux)


def _add_linux(made: nri.LinuxContainer, linux: oci.Linux) -> None:
    made.namespaces.extend(nri.LinuxNamespace(type=each.type, path=each.path) for each in linux.namespaces)
    for device in linux.devices:
        shown = made.devices.add(path=device.path, type=device.type, major=device.major, minor=device.minor)
        for name in ("file_mode", "uid", "gid"):
            if (value := getattr(device, name)) is not None:
                getattr(shown, name).value = value
    made.resources.CopyFrom(from_spec(linux.resources))
    made.cgroups_path = linux.cgroups_path
    made.sysctl.update(linux.sysctl)
    for name, net_device in linux.net_devices.items():
        made.net_devices[name].name = net_device.name
    if linux.seccomp is not None:
        _set_seccomp(made.seccomp_policy, linux.seccomp)
    if linux.intel_rdt is not None:
        made.rdt.clos_id.value = linux.intel_rdt.clos_id


def _set_scheduler(made: nri.LinuxScheduler, scheduler: oci.Scheduler) -> None:
    made.policy = getattr(nri, scheduler.policy)
    made.flags.extend(getattr(nri, name) for name in scheduler.flags)
    for name in ("nice", "priority", "runtime", "deadline", "period"):
        setattr(made, name, getattr(scheduler, name))


def _set_seccomp(made: nri.LinuxSeccomp, seccomp: oci.Seccomp) -> None:
    made.default_action = seccomp.default_action
    if seccomp.default_errno_ret is not None:
        made.default_errno.value = seccomp.default_errno_ret
    made.architectures.extend(seccomp.architectures)
    made.flags.extend(seccomp.flags)
    made.listener_path, made.listener_metadata = seccomp.listener_path, seccomp.listener_metadata
    for rule in seccomp.syscalls:
        shown = made.syscalls.add(names=rule.names, action=rule.action)
        if rule.errno_ret is not None:
            shown.errno_ret.value = rule.errno_ret
        for each in rule.args:
            shown.args.add(index=each.index, value=each.value, value_two=each.value_two, op=each.op)


def _set_profile(made: nri.SecurityProfile, profile: SecurityProfile | None, *, privileged: bool) -> None:
    if profile is None or privileged:
        made.profile_type = nri.SecurityProfile.UNCONFINED
        return
    made.profile_type = getattr(nri.SecurityProfile, profile.profile_type.name)
    made.localhost_ref = profile.localhost_ref


def _text(words: Iterable[str]) -> list[str]:
    """Protobuf strings hold text only: bytes that are none are shown replaced. What a plugin does not change stays as it was."""
    return [word.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for word in words]
