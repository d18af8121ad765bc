"""CreateContainer: from an image and a config to an init that waits at its gate.

    sandbox ready? -> join by name -> image -> row -> snapshot (rootfs fd) -> user -> OCI spec (pure) -> NRI plugins -> cgroup with its limits ->
    plan (pure) -> log -> monitor parks init at the gate -> created_at, event

A crash leaves the row without created_at: recovery discards it. Test: tests/kernel/services/test_containers.py.
"""

from __future__ import annotations

import errno
import os
import time

import msgspec

from orlop.base import faults, limits
from orlop.base.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, named
from orlop.base.ids import ContainerId, new_container_id
from orlop.base.rollback import Rollback
from orlop.base.stages import Stages
from orlop.metadata.pods import ContainerRow, SandboxRow
from orlop.monitor.client import MonitorError
from orlop.services.containers.anonymousvolumes import with_anonymous_volumes
from orlop.services.containers.imagevolumes import find_image_volumes
from orlop.services.containers.launch import Launch, plan_container
from orlop.services.containers.log import open_log, resolve_log_path
from orlop.services.gc import prune_after
from orlop.services.images.status import image_status
from orlop.services.live import LivePod
from orlop.services.monitors import publish
from orlop.services.node import Node
from orlop.services.nri.events import container_created, container_withdrawn
from orlop.services.options import rootfs_bytes_of
from orlop.services.refusals import refusing
from orlop.specs.pod import ContainerConfig, ContainerState, EventType, NamespaceMode, SandboxConfig

ROW, SNAPSHOT, VOLUMES, CGROUP, LAUNCH, CREATED = (
    "container.create.row",
    "container.create.snapshot",
    "container.create.volumes",
    "container.create.cgroup",
    "container.create.launch",
    "container.create.created",
)
faults.declare(ROW, SNAPSHOT, VOLUMES, CGROUP, LAUNCH, CREATED)


def container_name(sandbox: SandboxRow, config: ContainerConfig) -> str:
    """Return the name that kubelet's retries share: name and attempt within the sandbox."""
    return f"{config.metadata.name}_{config.metadata.attempt}_{sandbox.id}"


async def create_container(
    node: Node, sandbox_id: str, config: ContainerConfig, sandbox_config: SandboxConfig | None
) -> ContainerId:
    """Create a container in a ready sandbox and return its id; a retry under the same name meets the work that runs.

    Raises NotFound (sandbox, image), FailedPrecondition (sandbox not ready), InvalidArgument (config), AlreadyExists, Internal (a kernel
    step failed: which, on what path, why). On failure nothing of the container remains.
    """
    sandbox = node.pods.sandbox(sandbox_id)
    if not sandbox.ready_at or sandbox.stopped_at:
        raise FailedPrecondition(f"container {config.metadata.name}: sandbox {sandbox.id} is not ready")
    name = container_name(sandbox, config)
    with named(f"container {config.metadata.name}"):
        return await node.creating_containers.run(name, lambda: _create(node, name, sandbox, config))


async def _create(node: Node, name: str, sandbox: SandboxRow, config: ContainerConfig) -> ContainerId:
    subject = f"container {config.metadata.name}"
    if (taken := node.pods.container_named(name)) is not None:
        if taken.state is ContainerState.CREATED and taken.config == config:
            return taken.id  # nobody has started it: the answer got lost, and this is the caller's retry
        raise AlreadyExists(f"{subject}: name is taken by container {taken.id}")
    if 0 < config.resources.memory_limit < limits.MEMORY_LIMIT_MIN_BYTES:
        given, least = config.resources.memory_limit, limits.MEMORY_LIMIT_MIN_BYTES
        raise InvalidArgument(f"{subject}: memory_limit_in_bytes {given} is less than the {least} that a launch needs")
    stages = Stages()
    pod = node.live.need(sandbox.id)
    handler = node.handlers.of(sandbox)
    image = await image_status(node.images, config.image.image)
    if image is None:
        raise NotFound(f"{subject}: image {config.image.image!r} is not present")
    volumes = await find_image_volumes(node.images, config, subject)
    log_path = resolve_log_path(sandbox.config.log_directory, config.log_path, subject)
    _refuse_target_outside(node, sandbox, config, subject)
    size = rootfs_bytes_of(config, sandbox.config, node.options, node.rootfs_limits_missing)
    row = ContainerRow(
        id=new_container_id(),
        name=name,
        sandbox_id=sandbox.id,
        config=config,
        reserved_at=time.time_ns(),
        image_id=image.id,
        layers=tuple(dict.fromkeys(each for used in (image, *(v.image for v in volumes)) for each in used.diff_ids)),
        mount_digests={volume.mount.container_path: volume.image.id for volume in volumes},
        log_path=log_path,
        resources=config.resources,
    )
    async with (
        Rollback(f"container {row.id}") as undo,
        named(subject, f"container {row.id}", pod.monitor.subject),
        refusing(subject),
        node.nri.operation(),
    ):
        undo.push("row", lambda: _drop_row(node, row))
        node.pods.add_container(row)
        faults.reach(ROW)
        stages.mark("row")

        undo.push("snapshot", lambda: node.snapshots.remove(row.id))
        rootfs = node.snapshots.prepare(row.id, image.layer_paths, size=size)
        fds = [rootfs]
        try:
            faults.reach(SNAPSHOT)
            stages.mark("snapshot")

            undo.push("nri", lambda: container_withdrawn(node, sandbox, row))
            undo.push("handler", lambda: handler.discard(node, row))
            launched = await with_anonymous_volumes(node.snapshots, row, image, rootfs)
            faults.reach(VOLUMES)

            launch: Launch = await plan_container(node, pod, sandbox, launched, image, volumes, handler, rootfs, fds)
            cgroup = launch.cgroup
            undo.push("cgroup", lambda: discard_cgroup(node, cgroup.path))
            fds += sorted({*cgroup.join_fds, cgroup.clone_fd, cgroup.kill_fd, cgroup.oom_fd} - {-1})
            faults.reach(CGROUP)
            stages.mark("plan")

            log_fd = open_log(log_path, subject)
            if log_fd >= 0:
                fds.append(log_fd)
            undo.push("launch", lambda: _forget(pod, row.id))
            try:
                created = await pod.monitor.create(
                    row.id,
                    launch.planned.plan,
                    launch.planned.fds,
                    tty=config.tty,
                    stdin=config.stdin,
                    stdin_once=config.stdin_once,
                    log_fd=log_fd,
                    cgroup_fd=cgroup.kill_fd,
                    oom_fd=cgroup.oom_fd,
                    v2=cgroup.version == 2,
                    kill_by_cgroup=launch.kill_by_cgroup,
                    log_rate=launch.log_rate,
                )
            except MonitorError as error:
                if (better := launch.planned.explain(error)) is not None:
                    raise better from error
                raise
            faults.reach(LAUNCH)
            stages.mark("launch")
            os.close(created.pidfd)
        finally:
            for fd in fds:
                os.close(fd)
        row = msgspec.structs.replace(
            row,
            created_at=time.time_ns(),
            pid=created.pid,
            start_time=created.start_time,
            cgroup=cgroup.path,
            user=launch.user,
            resources=launch.resources,
            stop_signal=launch.stop_signal,
            spec=msgspec.Raw(launch.planned.spec_json),
            timings=stages.milliseconds,
        )
        node.pods.put_container(row)
        undo.commit()
    await container_created(node, row)
    publish(node, EventType.CREATED, row)
    faults.reach(CREATED)
    return row.id


def _drop_row(node: Node, row: ContainerRow) -> None:
    """Forget a container that was not made; its image may have been removed meanwhile."""
    node.pods.remove_container(row.id)
    prune_after(node, row)


def discard_cgroup(node: Node, path: str) -> None:
    """Remove a cgroup, with whatever process a failed launch may have left in it."""
    node.cgroups.kill_all(path)
    node.cgroups.remove_container(path)


async def _forget(pod: LivePod, container_id: ContainerId) -> None:
    """Let the monitor forget a container; it may not know it, because its launch failed there, or another request has it removed."""
    try:
        await pod.monitor.remove(container_id)
    except MonitorError as error:
        if error.errno not in (errno.ENOENT, errno.ECANCELED):
            raise


def _refuse_target_outside(node: Node, sandbox: SandboxRow, config: ContainerConfig, subject: str) -> None:
    """A TARGET PID namespace must be that of a running container of the same pod."""
    options = config.security.namespaces
    if options.pid is not NamespaceMode.TARGET:
        return
    with named(f"{subject}: namespace_options.target_id"):
        target = node.pods.container(options.target_id)
    if target.sandbox_id != sandbox.id:
        raise InvalidArgument(
            f"{subject}: namespace_options.target_id {options.target_id} is not in sandbox {sandbox.id}"
        )
    if not target.started_at or target.finished_at:
        raise FailedPrecondition(f"{subject}: namespace_options.target_id {options.target_id} does not run")
