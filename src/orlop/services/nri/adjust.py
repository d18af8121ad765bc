"""Carry an adjustment out on the runtime spec of a container that is being created. Pure.

Lists are carried out in order, removals among them; of maps the removals first. What the built-in runtime cannot do is refused here, or by
validate.py when it is a property of the spec; nothing is left out in silence. Test: tests/unit/services/nri/test_adjust.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.nri.merge import removal
from orlop.oci.validate import target_of
from orlop.services.containers.spec import BuiltSpec
from orlop.services.containers.spec_inputs import Host
from orlop.services.nri.resources import in_cri, merged_spec, to_spec
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.nri_gen import nri_pb2 as nri

_PROPAGATIONS: Final = ("rslave", "slave", "rshared", "shared")
_HOOKS: Final = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")
_RELABEL: Final = "relabel"
_OWN_NAMESPACES: Final = ("pid", "cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """A container's spec after its adjustment."""

    built: BuiltSpec
    resources: pod.LinuxResources
    """CRI's record of its limits."""


def adjust_spec(
    built: BuiltSpec, adjust: nri.ContainerAdjustment, resources: pod.LinuxResources, host: Host, subject: str
) -> Adjusted:
    """Return the spec with the adjustment. Raises InvalidArgument (impossible), Unimplemented (the built-in runtime can't)."""
    spec = built.spec
    if spec.process is None or spec.linux is None or spec.linux.resources is None:
        raise InvalidArgument(f"{subject}: its runtime spec has no process or no limits to adjust")
    mounts, trees, propagation = _mounts(built, adjust, host, subject)
    process = _process(spec.process, adjust)
    linux = _linux(spec.linux, adjust.linux, host, subject)
    linux = msgspec.structs.replace(linux, rootfs_propagation=propagation)
    spec = msgspec.structs.replace(
        spec,
        process=process,
        mounts=mounts,
        hooks=_hooks(spec.hooks, adjust.hooks),
        annotations=_map(spec.annotations, adjust.annotations),
        linux=linux,
    )
    asked = to_spec(adjust.linux.resources, subject, cgroup_v2=host.cgroup_v2, swap=host.swap)
    record = in_cri(resources, asked)
    if adjust.linux.HasField("oom_score_adj"):
        record = msgspec.structs.replace(record, oom_score_adj=adjust.linux.oom_score_adj.value)
    where = {kind: way for kind, way in built.namespaces.items() if (kind, "") not in _listed(linux)}
    return Adjusted(built=msgspec.structs.replace(built, spec=spec, trees=trees, namespaces=where), resources=record)


def _listed(linux: oci.Linux) -> set[tuple[str, str]]:
    return {(namespace.type, namespace.path) for namespace in linux.namespaces}


def _map(old: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    removed = {key for marked in wanted if (key := removal(marked)) is not None}
    made = {key: value for key, value in old.items() if key not in removed}
    return made | {key: value for key, value in wanted.items() if removal(key) is None}


# ---- process


def _process(process: oci.Process, adjust: nri.ContainerAdjustment) -> oci.Process:
    linux = adjust.linux
    limits = {limit.type: limit for limit in process.rlimits}
    limits |= {each.type: oci.Rlimit(type=each.type, soft=each.soft, hard=each.hard) for each in adjust.rlimits}
    changed: dict[str, Any] = {"env": _environment(process.env, adjust), "rlimits": tuple(limits.values())}
    if adjust.args:
        changed["args"] = tuple(adjust.args)
    if linux.HasField("oom_score_adj"):
        changed["oom_score_adj"] = linux.oom_score_adj.value
    if linux.HasField("io_priority"):
        kind: int = getattr(linux.io_priority, "class")
        changed["io_priority"] = (
            oci.IOPriority(class_=nri.IOPrioClass.Name(kind), priority=linux.io_priority.priority) if kind else None
        )
    if linux.HasField("scheduler"):
        changed["scheduler"] = _scheduler(linux.scheduler)
    return msgspec.structs.replace(process, **changed)


def _environment(old: tuple[str, ...], adjust: nri.ContainerAdjustment) -> tuple[str, ...]:
    env = {entry.partition("=")[0]: entry for entry in old}
    for each in adjust.env:
        if (name := removal(each.key)) is not None:
            env.pop(name, None)
        elif not each.key or "=" in each.key or "\0" in each.key + each.value:
            raise InvalidArgument(f"env: {each.key!r} is not a name, or its value holds a NUL")
        else:
            env[each.key] = f"{each.key}={each.value}"
    return tuple(env.values())


def _scheduler(wanted: nri.LinuxScheduler) -> oci.Scheduler | None:
    if wanted.policy == nri.SCHED_NONE:
        return None
    return oci.Scheduler(
        policy=nri.LinuxSchedulerPolicy.Name(wanted.policy),
        nice=wanted.nice,
        priority=wanted.priority,
        flags=tuple(nri.LinuxSchedulerFlag.Name(flag) for flag in wanted.flags),
        runtime=wanted.runtime,
        deadline=wanted.deadline,
        period=wanted.period,
    )


# ---- hooks


def _hooks(old: oci.Hooks | None, wanted: nri.Hooks) -> oci.Hooks | None:
    added = {kind: tuple(_hook(each) for each in getattr(wanted, kind)) for kind in _HOOKS}
    if not any(added.values()):
        return old
    before = old or oci.Hooks()
    return oci.Hooks(**{kind: (*getattr(before, kind), *more) for kind, more in added.items()})


def _hook(hook: nri.Hook) -> oci.Hook:
    return oci.Hook(
        path=hook.path,
        args=tuple(hook.args),
        env=tuple(hook.env),
        timeout=hook.timeout.value if hook.HasField("timeout") else None,
    )


# ---- mounts


def _mounts(
    built: BuiltSpec, adjust: nri.ContainerAdjustment, host: Host, subject: str
) -> tuple[tuple[oci.Mount, ...], dict[str, Any], str]:
    """Return mounts, the trees that still stand for one, and the root's propagation."""
    spec = built.spec
    propagation = spec.linux.rootfs_propagation if spec.linux is not None else ""
    trees = dict(built.trees)
    mounts = list(spec.mounts)
    if not adjust.mounts:
        return spec.mounts, trees, propagation
    for index, each in enumerate(adjust.mounts):
        removed = removal(each.destination)
        field = f"{subject}: mounts[{index}].destination"
        target = target_of(field, each.destination if removed is None else removed)
        mounts = [mount for mount in mounts if mount.destination.rstrip("/") != target]
        trees.pop(target, None)
        if removed is not None:
            continue
        options = list(each.options)
        if _RELABEL in options:
            if host.selinux:
                raise Unimplemented(f"{subject}: mounts[{index}].options: relabel is not implemented")
            options.remove(_RELABEL)  # without SELinux there are no labels
        for option in options:
            if option in _PROPAGATIONS and propagation != "rshared":
                propagation = "rshared" if option.endswith("shared") else "rslave"
        mounts.append(oci.Mount(destination=target, type=each.type, source=each.source, options=tuple(options)))
    # As those of CRI: one that lies in another comes after it. The sort is stable, so defaults keep their order.
    mounts.sort(key=lambda mount: mount.destination.count("/") if mount.destination != "/" else 0)
    return tuple(mounts), trees, propagation


# ---- linux


def _linux(linux: oci.Linux, wanted: nri.LinuxContainerAdjustment, host: Host, subject: str) -> oci.Linux:
    devices, rules = _devices(linux.devices, wanted, subject)
    resources = linux.resources or oci.Resources()
    asked = to_spec(wanted.resources, subject, cgroup_v2=host.cgroup_v2, swap=host.swap)
    resources = merged_spec(resources, asked)
    changed: dict[str, Any] = {
        "devices": devices,
        "resources": msgspec.structs.replace(resources, devices=(*resources.devices, *rules)),
        "namespaces": _namespaces(linux.namespaces, wanted, subject),
        "sysctl": _map(linux.sysctl, wanted.sysctl),
        "net_devices": {
            name: oci.NetDevice(name=device.name)
            for name, device in wanted.net_devices.items()
            if removal(name) is None
        },
    }
    if wanted.cgroups_path:
        changed["cgroups_path"] = wanted.cgroups_path
    if wanted.HasField("seccomp_policy"):
        changed["seccomp"] = _seccomp(wanted.seccomp_policy)
    if wanted.HasField("memory_policy"):
        policy = wanted.memory_policy
        changed["memory_policy"] = oci.MemoryPolicy(
            mode=nri.MpolMode.Name(policy.mode),
            nodes=policy.nodes,
            flags=tuple(nri.MpolFlag.Name(flag) for flag in policy.flags),
        )
    changed["intel_rdt"] = _rdt(linux.intel_rdt, wanted)
    return msgspec.structs.replace(linux, **changed)


def _devices(
    old: tuple[oci.Device, ...], wanted: nri.LinuxContainerAdjustment, subject: str
) -> tuple[tuple[oci.Device, ...], tuple[oci.DeviceCgroup, ...]]:
    """A device of the container may be used by it: the rule comes with the node."""
    nodes = {device.path: device for device in old}
    rules: list[oci.DeviceCgroup] = []
    for index, each in enumerate(wanted.devices):
        if (path := removal(each.path)) is not None:
            nodes.pop(path, None)
            continue
        target = target_of(f"{subject}: devices[{index}].path", each.path)
        nodes[target] = oci.Device(
            path=target,
            type=each.type,
            major=each.major,
            minor=each.minor,
            file_mode=each.file_mode.value if each.HasField("file_mode") else None,
            uid=each.uid.value if each.HasField("uid") else None,
            gid=each.gid.value if each.HasField("gid") else None,
        )
        if each.type != "p":
            rules.append(oci.DeviceCgroup(allow=True, type=each.type, major=each.major, minor=each.minor, access="rwm"))
    return tuple(nodes.values()), tuple(rules)


def _namespaces(
    old: tuple[oci.Namespace, ...], wanted: nri.LinuxContainerAdjustment, subject: str
) -> tuple[oci.Namespace, ...]:
    """A container has its PID and cgroup namespace for itself, or not; the others are the pod's, whose monitor it is born from."""
    made = {namespace.type: namespace for namespace in old}
    for each in wanted.namespaces:
        removed = removal(each.type)
        kind = each.type if removed is None else removed
        if kind not in _OWN_NAMESPACES:
            raise Unimplemented(
                f"{subject}: namespaces: {kind}: is the pod's, or needed; only pid and cgroup can be adjusted"
            )
        if each.path:
            raise Unimplemented(f"{subject}: namespaces: {kind}: a path cannot be joined here")
        made.pop(kind, None)
        if removed is None:
            made[kind] = oci.Namespace(type=kind)
    return tuple(made.values())


def _seccomp(wanted: nri.LinuxSeccomp) -> oci.Seccomp:
    return oci.Seccomp(
        default_action=wanted.default_action,
        default_errno_ret=wanted.default_errno.value if wanted.HasField("default_errno") else None,
        architectures=tuple(wanted.architectures),
        flags=tuple(wanted.flags),
        listener_path=wanted.listener_path,
        listener_metadata=wanted.listener_metadata,
        syscalls=tuple(
            oci.Syscall(
                names=tuple(rule.names),
                action=rule.action,
                errno_ret=rule.errno_ret.value if rule.HasField("errno_ret") else None,
                args=tuple(
                    oci.SeccompArg(index=each.index, op=each.op, value=each.value, value_two=each.value_two)
                    for each in rule.args
                ),
            )
            for rule in wanted.syscalls
        ),
    )


def _rdt(old: oci.IntelRdt | None, wanted: nri.LinuxContainerAdjustment) -> oci.IntelRdt | None:
    """A class is a CLOS by its name, as in containerd."""
    rdt = wanted.rdt
    made = None if rdt.remove else old
    changed: dict[str, Any] = {}
    if wanted.resources.HasField("rdt_class"):
        if not wanted.resources.rdt_class.value:
            made = None
        else:
            changed["clos_id"] = wanted.resources.rdt_class.value
    if rdt.HasField("clos_id"):
        changed["clos_id"] = rdt.clos_id.value
    if rdt.HasField("schemata"):
        changed["schemata"] = tuple(rdt.schemata.value)
    if rdt.HasField("enable_monitoring"):
        changed["enable_monitoring"] = rdt.enable_monitoring.value
    return msgspec.structs.replace(made or oci.IntelRdt(), **changed) if changed else made
