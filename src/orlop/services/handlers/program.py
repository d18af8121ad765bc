"""A handler that is another OCI runtime's program (crun, runc), run by the pod's monitor. The daemon runs nothing itself.

    create   bundle -> plan -> monitor runs ``create``; what it left is the container
    start    monitor runs ``start``; with its good end the container runs, daemon or not
    exec     process document -> plan -> monitor runs ``exec --detach``; what it left is the command
    signal   ``kill``            update   cgroup files, then ``update``, so that the program knows          discard   ``delete --force``, bundle

    pods/<sandbox>/bundles/<container>/    config.json, rootfs and mount points (empty, seen filled by the program alone), pid, logs, sockets
    pods/<sandbox>/programs/               the program's own --root

SIGKILL comes from the monitor, by cgroup, as for every container. When the pod's monitor is gone, a monitor without a pod, in the bundle, runs
``delete``. Test: tests/cri/test_handlers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import shutil
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from orlop.base import faults, limits
from orlop.base.errors import DeadlineExceeded, FailedPrecondition, OrlopError, Unavailable
from orlop.base.ids import new_exec_id
from orlop.kernel import mount
from orlop.metadata.pods import ContainerRow
from orlop.monitor.client import Exited, MonitorClient, MonitorError
from orlop.monitor.spawn import SOCKET_NAME, connect_monitor, spawn_monitor
from orlop.oci import foreign
from orlop.oci.cgroups.handles import ContainerCgroup, ExecCgroup
from orlop.oci.codec import encode
from orlop.oci.foreign import BUNDLE, CGROUP_CLONE, CONSOLE, Limits, Program, Room
from orlop.oci.ops import Fd, Foreign, Plan
from orlop.services.containers.launch import ROOTFS, open_shm, refuse_unopened
from orlop.services.containers.spec_process import build_exec_process
from orlop.services.containers.spec_resources import oci_cpu, oci_memory
from orlop.services.handlers.protocol import Abilities, Planned, PlannedExec, Prepared, ProgramError
from orlop.services.live import LivePod
from orlop.services.monitors import end_monitor
from orlop.services.node import Node
from orlop.services.refusals import NOT_EXECUTABLE, NOT_FOUND, Refusal
from orlop.specs import runtime as oci
from orlop.specs.ociruntime import failure_of
from orlop.specs.pod import LinuxResources

log = logging.getLogger(__name__)

BUNDLED, CREATED, STARTED, EXECUTED, SIGNALLED, DELETED = (
    "handler.create.bundle",
    "handler.create.planned",
    "handler.start.program",
    "handler.exec.planned",
    "handler.signal.program",
    "handler.discard.program",
)
faults.declare(BUNDLED, CREATED, STARTED, EXECUTED, SIGNALLED, DELETED)

DIRECTORY_MODE, FILE_MODE = 0o700, 0o600
NOT_A_COMMAND: Final = re.compile(r"executable file|open executable|\bexec: \"")
"""Words by which crun and runc tell that the command itself is what cannot be executed."""
MISSING: Final = re.compile(r"not found|no such file", re.IGNORECASE)
DENIED: Final = re.compile(r"permission denied|is a directory|exec format error", re.IGNORECASE)

Exits = dict[str, asyncio.Future[Exited]]


class ProgramHandler:
    """See protocol.Handler. ``hidden``: unified hierarchies of a hybrid host; ``state_mount``: the mount that the state directory lies on."""

    def __init__(
        self,
        name: str,
        program: Program,
        *,
        unavailable: str = "",
        hidden: tuple[str, ...] = (),
        state_mount: str = "/",
        own_limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.program = program
        self.unavailable = unavailable
        self.abilities = Abilities(
            recursive_read_only=program.recursive_read_only, idmapped_mounts=program.idmapped_mounts
        )
        self._hidden = hidden
        self._state_mount = state_mount
        self._limits = own_limits

    def describe(self) -> dict[str, object]:
        return {
            "type": "oci",
            "path": self.program.path,
            "version": self.program.release,
            "unavailable": self.unavailable,
        }

    # ---- create

    def plan(self, node: Node, prepared: Prepared) -> Planned:
        row, built = prepared.row, prepared.built
        subject = f"container {row.id}"
        bundle, states = node.state.bundle(row.sandbox_id, row.id), node.state.program_states(row.sandbox_id)
        spec, places = foreign.program_spec(
            built.spec, self.program, str(bundle), built.trees, prepared.cgroup.path, self._limits, subject
        )
        for directory in (bundle.parent, states):
            directory.mkdir(DIRECTORY_MODE, exist_ok=True)
        bundle.mkdir(DIRECTORY_MODE)
        _write(bundle / foreign.CONFIG, foreign.document(spec, subject))
        faults.reach(BUNDLED)
        terminal = spec.process is not None and spec.process.terminal
        console = _listen(bundle, foreign.CONSOLE_SOCKET, prepared.opened) if terminal else -1
        argv = self._command(node, row, foreign.LOG, *foreign.create_words(row.id, str(bundle), terminal=terminal))
        plan = foreign.compile_program(
            argv,
            self._room(
                prepared.cgroup,
                shared=spec.linux is not None and spec.linux.rootfs_propagation in ("rshared", "shared"),
            ),
            directory=str(bundle),
            makes=Foreign(directory=BUNDLE, pid_file=foreign.PID, console=CONSOLE if terminal else None),
            places=places,
        )
        available = {
            ROOTFS: prepared.rootfs,
            CGROUP_CLONE: prepared.cgroup.clone_fd,
            CONSOLE: console,
            **open_shm(prepared.pod, plan, prepared.opened),
            **prepared.mounts,
            **self._open(plan, bundle, prepared.opened),
        }
        refuse_unopened(prepared.pod, built, plan, available)
        for label, path in places:
            _make_mount_point(Path(path), available[label])
        faults.reach(CREATED)
        return Planned(
            plan=encode(plan),
            fds=tuple(available[label] for label in plan.fds),
            spec_json=oci.dump(spec),
            explain=lambda error: self._explain(subject, "create", bundle / foreign.LOG, error),
        )

    async def start(self, node: Node, pod: LivePod, row: ContainerRow) -> int:
        try:
            exited = await self._run(node, pod.monitor, pod.exec_exits, row, "start", row.id, starts=True)
        except OrlopError:
            # It may stand at its gate still; what is reported as ended must not run later.
            with contextlib.suppress(MonitorError, Unavailable):
                await pod.monitor.kill(row.id, signal.SIGKILL, all=True)
            raise
        faults.reach(STARTED)
        return exited.finished_ns

    # ---- exec

    def exec_cgroup(self, node: Node, row: ContainerRow, exec_id: str) -> ExecCgroup:
        return node.cgroups.create_exec(row.cgroup, exec_id, everywhere=True)

    def plan_exec(
        self,
        node: Node,
        row: ContainerRow,
        cgroup: ExecCgroup,
        exec_id: str,
        command: tuple[str, ...],
        *,
        tty: bool,
        gate: bool = False,
    ) -> PlannedExec:
        subject = f"container {row.id}: exec"
        bundle = node.state.bundle(row.sandbox_id, row.id)
        process, pid_file, log_file, console = (f"{exec_id}.{kind}" for kind in ("json", "pid", "log", "sock"))
        wanted = build_exec_process(oci.load(bytes(row.spec)), command, tty=tty)

        def resize(height: int, width: int) -> None:
            """The program has not read its document yet."""
            _unlink(bundle / process)
            sized = msgspec.structs.replace(wanted, console_size=oci.Box(height=height, width=width))
            _write(bundle / process, foreign.document(sized, subject))

        planned = PlannedExec(
            plan=b"",
            fds=(),
            explain=lambda error: self._explain(subject, "exec", bundle / log_file, error),
            clean=lambda: _unlink(*(bundle / name for name in (process, pid_file, log_file, console))),
            resize=resize,
        )
        try:
            _write(bundle / process, foreign.document(wanted, subject))
            listening = _listen(bundle, console, planned.owned) if tty else -1
            words = foreign.exec_words(
                self.program,
                row.id,
                exec_id,
                process=str(bundle / process),
                pid_file=str(bundle / pid_file),
                console=console if tty else "",
                cgroup=True,
            )
            plan = foreign.compile_program(
                self._command(node, row, log_file, *words),
                self._room(cgroup),
                directory=str(bundle),
                makes=Foreign(directory=BUNDLE, pid_file=pid_file, console=CONSOLE if tty else None),
                gate=gate,
            )
            available = {CGROUP_CLONE: cgroup.clone_fd, CONSOLE: listening, **self._open(plan, bundle, planned.owned)}
            planned.plan, planned.fds = encode(plan), tuple(available[label] for label in plan.fds)
            faults.reach(EXECUTED)
        except BaseException:
            planned.close()
            raise
        return planned

    # ---- the rest of a life

    async def signal(self, node: Node, pod: LivePod, row: ContainerRow, number: int) -> None:
        try:
            await self._run(node, pod.monitor, pod.exec_exits, row, "kill", row.id, str(number))
        except ProgramError as error:
            # It has ended meanwhile (then the monitor says ESRCH), or its program is broken: the monitor can signal it all the same.
            log.info("%s", error)
            await pod.monitor.kill(row.id, number)
        faults.reach(SIGNALLED)

    async def update(
        self, node: Node, pod: LivePod, row: ContainerRow, resources: LinuxResources | oci.Resources
    ) -> None:
        """First the cgroup, with our checks and our words; then the program, which would else write old limits at its next update."""
        node.cgroups.update(row.cgroup, resources)
        name = f"{new_exec_id()}.json"
        path = node.state.bundle(row.sandbox_id, row.id) / name
        try:
            _write(
                path,
                oci.resources_json(resources if isinstance(resources, oci.Resources) else _resources(node, resources)),
            )
            await self._run(node, pod.monitor, pod.exec_exits, row, "update", "--resources", str(path), row.id)
        except OrlopError:
            node.cgroups.update(row.cgroup, row.resources)
            raise
        finally:
            _unlink(path)

    async def discard(self, node: Node, row: ContainerRow) -> None:
        bundle = node.state.bundle(row.sandbox_id, row.id)
        if not bundle.exists():
            return
        words = ("delete", "--force", row.id)
        pod = node.live.get(row.sandbox_id)
        try:
            if pod is not None:
                await self._run(node, pod.monitor, pod.exec_exits, row, *words)
            else:
                async with _janitor(node, row, bundle) as (client, exits):
                    await self._run(node, client, exits, row, *words)
        except OrlopError as error:
            # Processes and cgroup are ours to end, and its records lie in the pod's directory: nothing is left but what it keeps elsewhere.
            log.warning("%s", error)
        faults.reach(DELETED)
        shutil.rmtree(node.state.program_states(row.sandbox_id) / row.id, ignore_errors=True)
        shutil.rmtree(bundle, ignore_errors=True)

    # ---- running the program

    def _command(self, node: Node, row: ContainerRow, log_name: str, *words: str) -> tuple[str, ...]:
        bundle = node.state.bundle(row.sandbox_id, row.id)
        return foreign.command_line(
            self.program, str(node.state.program_states(row.sandbox_id)), str(bundle / log_name), *words
        )

    def _room(self, cgroup: ContainerCgroup | ExecCgroup | None = None, *, shared: bool = False) -> Room:
        born = cgroup is not None and cgroup.version == 1 and cgroup.clone_fd >= 0
        return Room(
            hidden=self._hidden,
            shared=shared,
            private=(self._state_mount,),
            cgroup=CGROUP_CLONE if born else None,
        )

    def _open(self, plan: Plan, bundle: Path, opened: list[int]) -> dict[Fd, int]:
        """Open what every plan of a program needs; appended to ``opened`` one by one."""
        available: dict[Fd, int] = {}

        def keep(label: Fd, fd: int) -> None:
            opened.append(fd)
            available[label] = fd

        if BUNDLE in plan.fds:
            keep(BUNDLE, os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for kind, file, _ in foreign.HOST_NAMESPACES:
            keep(Fd(f"host.{kind}"), os.open(f"/proc/self/ns/{file}", os.O_RDONLY | os.O_CLOEXEC))
        for path in self._hidden:
            keep(foreign.hidden_label(path), _empty_directory())
        return available

    async def _run(
        self, node: Node, monitor: MonitorClient, exits: Exits, row: ContainerRow, *words: str, starts: bool = False
    ) -> Exited:
        """Let the monitor run one command of the program to its end. Raises ProgramError, MonitorError, Unavailable."""
        call = new_exec_id()
        bundle = node.state.bundle(row.sandbox_id, row.id)
        log_path = bundle / f"{call}.log"
        plan = foreign.compile_program(
            self._command(node, row, log_path.name, *words), self._room(), directory=str(bundle)
        )
        subject = f"container {row.id}"
        opened: list[int] = []
        ended: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
        exits[call] = ended
        try:
            available = self._open(plan, bundle, opened)
            await monitor.exec(
                call,
                row.id if starts else "",
                encode(plan),
                tuple(available[label] for label in plan.fds),
                timeout_ms=int(limits.OCI_PROGRAM_SECONDS * 1000),
                starts=starts,
            )
            exited = await ended
            if exited.exit_code:
                raise self._failure(subject, words[0], log_path, f"exit code {exited.exit_code}")
            return exited
        except MonitorError as error:
            if (better := self._explain(subject, words[0], log_path, error)) is not None:
                raise better from error
            raise
        except asyncio.CancelledError:
            if ended.cancelled():
                raise Unavailable(f"{subject}: {words[0]}: the pod's monitor ended") from None
            raise
        finally:
            exits.pop(call, None)
            for fd in opened:
                os.close(fd)
            _unlink(log_path)

    def _explain(self, subject: str, verb: str, log_path: Path, error: MonitorError) -> OrlopError | None:
        """Return what a refused launch means: the program's own reason, where it gave one; None when it is not the program's doing."""
        if error.op == "exec":
            return FailedPrecondition(f"{subject}: handler {self.name}: {error.reason}")
        if error.op != "program":
            return None
        if error.errno == errno.ETIMEDOUT:
            return DeadlineExceeded(f"{subject}: handler {self.name}: {verb}: its program was killed at the deadline")
        return self._failure(subject, verb, log_path, error.reason)

    def _failure(self, subject: str, verb: str, log_path: Path, otherwise: str) -> OrlopError:
        try:
            with open(log_path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limits.OCI_PROGRAM_LOG_BYTES))
                reason = failure_of(file.read(limits.OCI_PROGRAM_LOG_BYTES))
        except FileNotFoundError:
            reason = ""
        if NOT_A_COMMAND.search(reason) and (MISSING.search(reason) or DENIED.search(reason)):
            # In the words of the built-in handler: it is the exec that failed, whoever found that out.
            where = f"{subject.removesuffix(': exec')}: exec: handler {self.name}"
            return Refusal(f"{where}: {reason}", NOT_FOUND if MISSING.search(reason) else NOT_EXECUTABLE)
        return ProgramError(f"{subject}: handler {self.name}: {verb}: {reason or otherwise}")


@asynccontextmanager
async def _janitor(node: Node, row: ContainerRow, bundle: Path) -> AsyncIterator[tuple[MonitorClient, Exits]]:
    """A monitor without a pod. One that a killed daemon left in the bundle is taken over."""
    try:
        client = await connect_monitor(row.id, bundle)
    except (FileNotFoundError, ConnectionRefusedError):
        _unlink(bundle / SOCKET_NAME)
        client = await spawn_monitor(row.id, bundle, node.monitor_program.path)
    exits: Exits = {}

    def lost() -> None:
        for waiter in exits.values():
            waiter.cancel()

    def on_event(event: object) -> None:
        if isinstance(event, Exited) and (waiter := exits.get(event.id)) is not None and not waiter.done():
            waiter.set_result(event)

    client.on_event, client.on_lost = on_event, lost
    try:
        yield client, exits
    finally:
        await end_monitor(client)


def _resources(node: Node, given: LinuxResources) -> oci.Resources:
    return oci.Resources(
        cpu=oci_cpu(given),
        memory=oci_memory(given, node.host),
        hugepage_limits=tuple(
            oci.HugepageLimit(page_size=each.page_size, limit=each.limit) for each in given.hugepage_limits
        )
        if node.host.hugetlb
        else (),
        unified=given.unified,
    )


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    with open(fd, "wb") as file:
        file.write(data)


def _unlink(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _make_mount_point(path: Path, tree: int) -> None:
    """Of the kind of what is to be placed on it."""
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        path.mkdir(DIRECTORY_MODE)
    else:
        path.touch(FILE_MODE)


def _listen(bundle: Path, name: str, opened: list[int]) -> int:
    """Return a listening socket in the bundle for one terminal; it is appended to ``opened``."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.append(listener.detach())
    directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(fileno=os.dup(opened[-1])) as bound:
            bound.bind(f"/proc/self/fd/{directory}/{name}")
            bound.listen(1)
    finally:
        os.close(directory)
    return opened[-1]


def _empty_directory() -> int:
    """Return a detached mount of an empty file system. crun makes the container's directory in it, as it would in any hierarchy."""
    context = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    try:
        mount.fsconfig_set_string(context, "mode", "0755")
        mount.fsconfig_set_string(context, "size", "64k")
        mount.fsconfig_create(context)
        return mount.fsmount(
            context, mount.FSMOUNT_CLOEXEC, mount.MOUNT_ATTR_NOEXEC | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
        )
    finally:
        os.close(context)
