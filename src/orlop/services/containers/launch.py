"""From a container's config to what its monitor is given: user, runtime spec, cgroup, plan and the fds that travel with it.

    image and rootfs -> user -> devices, seccomp -> runtime spec (pure) -> NRI plugins -> cgroup with its limits -> plan (pure) -> bytes and fds

Owns the order and the fds until the monitor has them; decides nothing that spec.py or compile.py decide. Test: tests/kernel/services/.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import msgspec

from orlop.base import faults, limits
from orlop.base.errors import Internal, InvalidArgument
from orlop.kernel.openat2 import open_in_root
from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.oci.cgroups.handles import ContainerCgroup, ExecCgroup
from orlop.oci.codec import encode
from orlop.oci.compile import (
    INHERITED,
    OF_POD_INIT,
    CgroupBind,
    Facts,
    OfContainer,
    Whereabouts,
    compile_container,
    compile_exec,
)
from orlop.oci.ops import Fd, Plan
from orlop.security.profiles import Profile, compile_profile, profile_of
from orlop.services.containers.cdi import asked_devices, edit_spec
from orlop.services.containers.devices import device_nodes
from orlop.services.containers.idmaps import open_idmaps
from orlop.services.containers.imagevolumes import ImageVolume, open_image_volume
from orlop.services.containers.spec import BuiltSpec, build_spec
from orlop.services.containers.spec_inputs import ImageDefaults, PodFiles
from orlop.services.containers.spec_mounts import SHM_FD
from orlop.services.containers.spec_process import build_exec_process
from orlop.services.containers.spec_security import choose_seccomp
from orlop.services.containers.user import resolve_user
from orlop.services.handlers.protocol import Handler, Planned, PlannedExec, Prepared, host_for
from orlop.services.images.record import ImageRecord
from orlop.services.live import KeptPlan, LivePod
from orlop.services.node import Node
from orlop.services.nri.events import Asked, container_creates
from orlop.services.options import log_rate_of, ulimits_of
from orlop.services.refusals import refusal
from orlop.services.sandboxes.shm import clone_shm
from orlop.specs.pod import ContainerConfig, ContainerUser, LinuxResources, NamespaceMode
from orlop.specs.runtime import RuntimeSpec, dump, load

ROOTFS = Fd("rootfs")
CGROUP_CLONE = Fd("cgroup.clone")
PLUGINS = "container.create.plugins"
faults.declare(PLUGINS)
POD_NAMESPACES = ("network", "uts", "ipc")
"""Those that the monitor lives in, so that a child inherits them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that the monitor's ``create`` takes, and what the row keeps."""

    planned: Planned
    cgroup: ContainerCgroup
    kill_by_cgroup: bool
    """The container has no PID namespace of its own: ending init does not end the others."""
    stop_signal: int
    resources: LinuxResources
    """CRI's record of the limits: what was asked for, and what plugins made of it."""
    user: ContainerUser
    log_rate: int = 0


def image_defaults(image: ImageRecord) -> ImageDefaults:
    """Return what of an image's config a container starts from."""
    config = image.config
    return ImageDefaults(
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        env=config.env,
        user=config.user,
        working_dir=config.working_dir,
        volumes=config.volumes,
        stop_signal=config.stop_signal,
        labels=config.labels,
    )


async def plan_container(
    node: Node,
    pod: LivePod,
    sandbox: SandboxRow,
    row: ContainerRow,
    image: ImageRecord,
    volumes: tuple[ImageVolume, ...],
    handler: Handler,
    rootfs: int,
    fds: list[int],
) -> Launch:
    """Prepare a container's launch; every fd that is opened is appended to ``fds``, which the caller closes, except the cgroup's.

    The cgroup exists when this returns: its undo is the caller's. Raises InvalidArgument, FailedPrecondition, Unimplemented, Internal.
    """
    config = row.config
    root_directory = open_in_root(rootfs, "/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        user = resolve_user(root_directory, config.security, image.config.user)
    finally:
        os.close(root_directory)
    log_rate = log_rate_of(config, sandbox.config, node.options)
    profile = choose_seccomp(config.security, node.host)
    parent = sandbox.cgroup_parent
    built = build_spec(
        config,
        sandbox.config,
        image_defaults(image),
        user=user,
        host=host_for(handler, node.host),
        files=pod_files(node, sandbox),
        sandbox_id=sandbox.id,
        cgroups_path=f"{parent}/{row.id}",
        monitor_pid=sandbox.monitor_pid,
        init_pid=pod.init_pid,
        target_pid=_target_pid(node, row),
        devices=device_nodes(config.devices),
        profile=profile,
        ulimits=ulimits_of(config, sandbox.config, node.options),
    )
    subject = f"container {config.metadata.name}"
    if names := asked_devices(config):
        built = msgspec.structs.replace(built, spec=edit_spec(built.spec, node.cdi, names, subject))
    asked = await container_creates(node, sandbox, row, built, _reported(built.spec), subject)
    faults.reach(PLUGINS)
    with asked.blamed(subject):
        launch = _launch(node, pod, row, asked, profile, asked.cgroup_parent or parent, volumes, handler, rootfs, fds)
    return replace(launch, log_rate=log_rate)


def _launch(
    node: Node,
    pod: LivePod,
    row: ContainerRow,
    asked: Asked,
    profile: Profile | None,
    parent: str,
    volumes: tuple[ImageVolume, ...],
    handler: Handler,
    rootfs: int,
    fds: list[int],
) -> Launch:
    """The second half: from the spec, as plugins have left it, to cgroup and plan."""
    config, built = row.config, asked.built
    seccomp = built.spec.linux.seccomp if built.spec.linux is not None else None
    if seccomp is not None and (profile is None or seccomp is not profile.seccomp):
        profile = profile_of(seccomp, "of an NRI plugin")
    _make_host_directories(built.host_directories)
    mounts = _open_mounts(node, config, volumes, fds)
    resources = built.spec.linux.resources if built.spec.linux is not None else None
    if resources is None:
        raise Internal(f"container {row.id}: its runtime spec has no resources")
    cgroup = node.cgroups.create_container(parent, row.id, resources, resources.devices)
    try:
        prepared = Prepared(
            pod=pod,
            row=row,
            built=built,
            cgroup=cgroup,
            profile=profile,
            rootfs=rootfs,
            mounts=mounts,
            opened=fds,
        )
        return Launch(
            planned=handler.plan(node, prepared),
            cgroup=cgroup,
            kill_by_cgroup=asked.namespaces or config.security.namespaces.pid is not NamespaceMode.CONTAINER,
            user=_reported(built.spec),
            stop_signal=built.stop_signal,
            resources=asked.resources,
        )
    except BaseException:
        cgroup.close()
        node.cgroups.remove_container(cgroup.path)
        raise


def _make_host_directories(directories: Iterable[str]) -> None:
    """Make the sources of volumes that are not there, as docker and kubelet expect; one may as well be a file, a socket or a device."""
    for directory in directories:
        if os.path.exists(directory):
            continue
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
        except OSError as error:
            raise InvalidArgument(
                f"mounts: host_path {directory}: is not there and cannot be made: {error.strerror}"
            ) from error


def plan_own(node: Node, prepared: Prepared) -> Planned:
    """Plan the launch that orlop itself does."""
    built, cgroup = prepared.built, prepared.cgroup
    filter_bytes, filter_flags = b"", 0
    if prepared.profile is not None:
        compiled = compile_profile(prepared.profile)
        filter_bytes, filter_flags = compiled.bpf, compiled.flags
    facts = msgspec.structs.replace(
        built.facts(prepared.row.id),
        seccomp_filter=filter_bytes,
        seccomp_flags=filter_flags,
        clamp_limits=node.clamp_limits,
        cgroup_binds=tuple(
            CgroupBind(name=name, source=f"{mountpoint}{cgroup.path}") for name, mountpoint in node.cgroup_mounts
        ),
        **_cgroup_facts(cgroup),
    )
    plan = compile_container(built.spec, facts)
    available = {
        ROOTFS: prepared.rootfs,
        **_cgroup_fds(cgroup),
        **open_shm(prepared.pod, plan, prepared.opened),
        **prepared.mounts,
    }
    refuse_unopened(prepared.pod, built, plan, available)
    return Planned(
        plan=encode(plan),
        fds=tuple(available[label] for label in plan.fds),
        spec_json=dump(built.spec),
        explain=lambda _: None,
    )


def plan_own_exec(
    node: Node,
    row: ContainerRow,
    cgroup: ExecCgroup,
    command: tuple[str, ...],
    *,
    tty: bool,
    gate: bool,
) -> PlannedExec:
    """Plan one more process in a running container, joined by orlop itself; the fds are the cgroup's. ``gate``: it waits there until it is started.

    Probes run the same command again and again: the last few plans of a pod are kept, and taken while the container's spec is the same.
    """
    plans = node.live.need(row.sandbox_id).exec_plans
    key = (row.id, command, tty, gate, len(cgroup.join_fds))
    kept = plans.pop(key, None)
    if kept is None or kept.spec != row.spec:
        plan = _compile_exec(node, row, cgroup, command, tty=tty, gate=gate)
        kept = KeptPlan(spec=row.spec, plan=encode(plan), labels=plan.fds)
        while len(plans) >= limits.EXEC_PLANS_KEPT:
            del plans[next(iter(plans))]
    plans[key] = kept
    available = _cgroup_fds(cgroup)
    subject = f"container {row.id}"
    return PlannedExec(
        plan=kept.plan,
        fds=tuple(available[label] for label in kept.labels),
        explain=lambda error: refusal(subject, error),
    )


def _compile_exec(
    node: Node, row: ContainerRow, cgroup: ExecCgroup, command: tuple[str, ...], *, tty: bool, gate: bool
) -> Plan:
    spec = load(bytes(row.spec))
    if spec.linux is None:
        raise Internal(f"container {row.id}: its stored runtime spec has no linux object")
    filter_bytes, filter_flags = b"", 0
    if spec.linux.seccomp is not None:
        compiled = compile_profile(profile_of(spec.linux.seccomp))
        filter_bytes, filter_flags = compiled.bpf, compiled.flags
    facts = Facts(
        container_id=row.id,
        namespaces=_whereabouts(spec, row),
        monitor_namespaces=frozenset(
            each.type for each in spec.linux.namespaces if each.type in POD_NAMESPACES and each.path
        ),
        **_cgroup_facts(cgroup),
        seccomp_filter=filter_bytes,
        seccomp_flags=filter_flags,
        clamp_limits=node.clamp_limits,
        exec_gate=gate,
    )
    return compile_exec(build_exec_process(spec, command, tty=tty), spec, facts)


def pod_files(node: Node, sandbox: SandboxRow) -> PodFiles:
    """Return the pod's own /etc files as far as they have been written; without them the image's stay."""
    paths = (node.state.hosts(sandbox.id), node.state.resolv_conf(sandbox.id), node.state.hostname(sandbox.id))
    hosts, resolv_conf, hostname = (str(path) if path.exists() else "" for path in paths)
    return PodFiles(hosts=hosts, resolv_conf=resolv_conf, hostname=hostname)


def _target_pid(node: Node, row: ContainerRow) -> int:
    target = row.config.security.namespaces.target_id
    return node.pods.container(target).pid if target else 0


def _reported(spec: RuntimeSpec) -> ContainerUser:
    """The user of the first process as it is launched, with the groups that its devices gave it."""
    if spec.process is None:
        raise Internal("config.json: process: missing")
    user = spec.process.user
    return ContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.additional_gids)


def _whereabouts(spec: RuntimeSpec, row: ContainerRow) -> dict[str, Whereabouts]:
    """How an exec gets into the namespaces that the container did not make itself."""
    where: dict[str, Whereabouts] = {}
    options = row.config.security.namespaces
    for namespace in spec.linux.namespaces if spec.linux is not None else ():
        if namespace.path and namespace.type in POD_NAMESPACES:
            where[namespace.type] = INHERITED
        elif namespace.path and namespace.type == "pid":
            target = options.pid is NamespaceMode.TARGET
            where["pid"] = OfContainer(options.target_id) if target else OF_POD_INIT
    return where


class _CgroupFacts(TypedDict):
    cgroup_v2: bool
    cgroup_clone: Fd | None
    cgroup_tasks: tuple[Fd, ...]


def _task_labels(cgroup: ContainerCgroup | ExecCgroup) -> tuple[Fd, ...]:
    return () if cgroup.version == 2 else tuple(Fd(f"cgroup.tasks.{n}") for n in range(len(cgroup.join_fds)))


def _cgroup_facts(cgroup: ContainerCgroup | ExecCgroup) -> _CgroupFacts:
    return {
        "cgroup_v2": cgroup.version == 2,
        "cgroup_clone": CGROUP_CLONE if cgroup.clone_fd >= 0 else None,
        "cgroup_tasks": _task_labels(cgroup),
    }


def _cgroup_fds(cgroup: ContainerCgroup | ExecCgroup) -> dict[Fd, int]:
    return {CGROUP_CLONE: cgroup.clone_fd, **dict(zip(_task_labels(cgroup), cgroup.join_fds, strict=False))}


def open_shm(pod: LivePod, plan: Plan, opened: list[int]) -> dict[Fd, int]:
    """Return a clone of the pod's /dev/shm if the plan names it; the fd is appended to ``opened``."""
    if SHM_FD not in plan.fds:
        return {}
    if pod.shm_fd < 0:
        raise Internal(f"sandbox {pod.id}: has no /dev/shm of its own")
    opened.append(clone_shm(pod.shm_fd))
    return {SHM_FD: opened[-1]}


def _open_mounts(
    node: Node, config: ContainerConfig, volumes: tuple[ImageVolume, ...], fds: list[int]
) -> dict[Fd, int]:
    """Return what the container's own mounts need opened: image volumes, and the user namespaces of id-mapped ones."""
    subject = f"container {config.metadata.name}"
    idmaps = open_idmaps(node.idmaps, config, subject, fds)
    available = dict(idmaps.values())
    for volume in volumes:
        _, userns_fd = idmaps.get(volume.target, (None, -1))
        label, fd = open_image_volume(node.snapshots, volume, subject, userns_fd=userns_fd)
        fds.append(fd)
        available[label] = fd
    return available


def refuse_unopened(pod: LivePod, built: BuiltSpec, plan: Plan, available: Mapping[Fd, int]) -> None:
    missing = [label for label in plan.fds if label not in available]
    if missing:
        raise Internal(
            f"sandbox {pod.id}: the plan names fds that nobody opens: {', '.join(missing)} (for {', '.join(built.trees)})"
        )
