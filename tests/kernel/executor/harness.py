"""Runs plans on the real kernel by the test driver native/planrun.c, in roots that each test makes.

ORLOP_NATIVE=asan runs the build with ASan and UBSan. The payload (tests/kernel/payload.c) is the whole userland of the container.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.codec import encode
from orlop.oci.ops import Fd, Op, make_plan

ROOT = Path(__file__).resolve().parents[3]
VARIANT = os.environ.get("ORLOP_NATIVE", "release")
OUT = ROOT / "build/native" / VARIANT
ALL_CAPABILITIES = (1 << 64) - 1
ROOTFS = Fd("rootfs")
NEW = k.CLONE_NEWNS | k.CLONE_NEWPID | k.CLONE_NEWIPC | k.CLONE_NEWUTS
NODEV_NOSUID_NOEXEC = k.ATTR_NOSUID | k.ATTR_NODEV | k.ATTR_NOEXEC


SANITIZER_WORDS = re.compile(r"(Address|Leak|UndefinedBehavior)Sanitizer|runtime error:")


def no_report(text: str | bytes, where: object) -> None:
    """Fail if a sanitizer has spoken. A child reports to the stderr that it has: the monitor's, then the container's."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    assert not SANITIZER_WORDS.search(text), f"{where}: {text[:8000]}"


@cache
def planrun() -> Path:
    subprocess.run(
        ["make", "-s", "-C", ROOT / "native", f"VARIANT={VARIANT}", f"../build/native/{VARIANT}/planrun"], check=True
    )
    return OUT / "planrun"


@cache
def payload() -> Path:
    target, source = OUT / "payload", Path(__file__).parents[1] / "payload.c"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["musl-gcc", "-static", "-O1", "-o", target, source], check=True)
    return target


@dataclass(kw_only=True)
class Outcome:
    """What planrun reported, parsed: one dict an event, in order."""

    out: str
    events: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    status: int = 0

    def event(self, name: str) -> dict[str, str]:
        for event, values in self.events:
            if event == name:
                return values
        raise AssertionError(f"no event {name}: {self.events} {self.out!r}")

    def has(self, name: str) -> bool:
        return any(event == name for event, _ in self.events)

    @property
    def failed(self) -> tuple[str, int, str]:
        """(op, errno, detail)"""
        values = self.event("failed")
        return values["op"], int(values["errno"]), values["detail"]

    @property
    def exit_code(self) -> int:
        return int(self.event("exit")["code"])

    def line(self, prefix: str) -> str:
        for line in self.out.splitlines():
            if line.startswith(prefix):
                return line
        raise AssertionError(f"no line {prefix!r} in {self.out!r} {self.events}")


def parse(report: str, out: str, status: int) -> Outcome:
    outcome = Outcome(out=out, status=status)
    for line in report.splitlines():
        name, _, rest = line.partition(" ")
        values = dict(re.findall(r"(\w+)=((?:(?! \w+=).)*)", rest.split(" detail=")[0]))
        if " detail=" in rest:
            values["detail"] = rest.split(" detail=", 1)[1]
        outcome.events.append((name, values))
    return outcome


@dataclass(kw_only=True)
class Box:
    """One container's directories: an image (lower), a writable layer, a place for plans."""

    base: Path

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "work", "host"):
            (self.base / name).mkdir()
        for name in ("proc", "sys", "dev", "etc", "tmp", "bin"):
            (self.lower / name).mkdir()
        self.install("bin/payload")

    def install(self, path: str) -> None:
        target = self.lower / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(payload().read_bytes())
        target.chmod(0o755)

    @property
    def lower(self) -> Path:
        return self.base / "lower"

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @property
    def host(self) -> Path:
        """A directory of the host that a container must never change, unless it is given."""
        return self.base / "host"

    @property
    def overlay(self) -> str:
        return f"overlay:{self.lower}:{self.upper}:{self.base / 'work'}"

    def command(
        self,
        container: Iterable[Op],
        *,
        fds: dict[str, str] | None = None,
        exec_ops: Iterable[Op] = (),
        exec_fds: dict[str, str] | None = None,
        pod: Iterable[Op] = (),
        options: Sequence[str] = (),
    ) -> list[str]:
        def written(name: str, items: Iterable[Op], known: dict[str, str]) -> list[str]:
            plan = make_plan(items)
            path = self.base / name
            path.write_bytes(encode(plan))
            return [str(path), *(known[label] for label in plan.fds)]

        command = [str(planrun()), *options]
        pod = list(pod)
        if pod:
            command += ["--pod", *written("pod.plan", pod, {})]
        command += written("container.plan", container, {ROOTFS: self.overlay, **(fds or {})})
        exec_ops = list(exec_ops)
        if exec_ops:
            command += ["--", *written("exec.plan", exec_ops, exec_fds or {})]
        return command

    def run(
        self,
        container: Iterable[Op],
        *,
        fds: dict[str, str] | None = None,
        exec_ops: Iterable[Op] = (),
        exec_fds: dict[str, str] | None = None,
        pod: Iterable[Op] = (),
        options: Sequence[str] = ("--stdio",),
        pass_fds: Sequence[int] = (),
        stdin: str = "",
    ) -> Outcome:
        reading, writing = os.pipe()
        try:
            command = self.command(
                container,
                fds=fds,
                exec_ops=exec_ops,
                exec_fds=exec_fds,
                pod=pod,
                options=("--report", str(writing), *options),
            )
            done = subprocess.run(
                command,
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                pass_fds=(writing, *pass_fds),
                check=False,
            )
        finally:
            os.close(writing)
        no_report(done.stdout, command[0])
        with open(reading) as report:
            return parse(report.read(), done.stdout, done.returncode)


def new(fstype: str, target: str, attrs: int = 0, options: tuple[str, ...] = (), flags: int = ops.NEW_CREATE) -> Op:
    return ops.MountNew(fstype=fstype, source=fstype, target=target, attrs=attrs, options=options, flags=flags)


def bind(source: str | Path, target: str, flags: int = ops.BIND_CREATE, **fields: int) -> Op:
    values = {"attr_set": 0, "attr_clr": 0, "propagation": 0, **fields}
    return ops.MountBind(tree=None, source=str(source), target=target, flags=flags, userns=None, **values)


def mknod(name: str, major: int, minor: int) -> Op:
    return ops.Mknod(target=name, mode=k.S_IFCHR | 0o666, major=major, minor=minor, uid=0, gid=0)


DEV: tuple[Op, ...] = (
    new("tmpfs", "/dev", k.ATTR_NOSUID, ("mode=755", "size=65536k")),
    new("devpts", "/dev/pts", k.ATTR_NOSUID | k.ATTR_NOEXEC, ("newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    new("mqueue", "/dev/mqueue", NODEV_NOSUID_NOEXEC),
    new("tmpfs", "/dev/shm", NODEV_NOSUID_NOEXEC, ("mode=1777", "size=65536k")),
)
NODES: tuple[Op, ...] = (
    mknod("/dev/null", 1, 3),
    mknod("/dev/zero", 1, 5),
    mknod("/dev/full", 1, 7),
    mknod("/dev/random", 1, 8),
    mknod("/dev/urandom", 1, 9),
    mknod("/dev/tty", 5, 0),
    ops.Symlink(linktext="pts/ptmx", target="/dev/ptmx"),
    ops.Symlink(linktext="/proc/self/fd", target="/dev/fd"),
)
PROC = new("proc", "/proc", NODEV_NOSUID_NOEXEC)
MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PATH_ENV = ("PATH=/usr/bin:/bin",)


def container(
    *verbs: str,
    flags: int = NEW,
    spawn: Sequence[Op] = (),
    parent: Sequence[Op] = (),
    join: Sequence[Op] = (ops.Setsid(),),
    ns: Sequence[Op] = (),
    rootfs: Op | None = None,
    propagation: int = k.MS_SLAVE | k.MS_REC,
    mounts: Sequence[Op] = (PROC, *DEV, *NODES),
    more: Sequence[Op] = (),
    root: Sequence[Op] = (),
    stdio: Sequence[Op] = (ops.Stdio(in_=None, out=None, err=None),),
    identity: Sequence[Op] = (),
    final: Sequence[Op] = (),
    gate: bool = True,
    argv: Sequence[str] | None = None,
    path: str = "/bin/payload",
    env: Sequence[str] = PATH_ENV,
) -> list[Op]:
    """A container with the usual mounts that runs the payload's verbs."""
    return [
        *spawn,
        ops.Clone(flags=flags, cgroup=None),
        *parent,
        *join,
        *ns,
        ops.RootPropagation(flags=propagation),
        rootfs or ops.Rootfs(tree=ROOTFS, source="", flags=0),
        *mounts,
        *more,
        ops.PivotRoot(),
        *root,
        *stdio,
        *identity,
        *([ops.Gate()] if gate else []),
        *final,
        ops.Exec(path=path, argv=tuple(argv or (path, *verbs)), envp=tuple(env)),
    ]


def standard(*verbs: str, more: Sequence[Op] = ()) -> list[Op]:
    """What kubelet's default container comes to: 7 mounts, 3 binds, masks, read-only paths, capabilities, no_new_privs."""
    default = 0xA80425FB
    return container(
        *verbs,
        parent=(ops.OomScoreAdj(value=1000, clamp=1),),
        join=(ops.Unshare(flags=k.CLONE_NEWCGROUP), ops.Setsid(), ops.SessionKeyring(name="_ses.orlop-test")),
        more=(
            new("sysfs", "/sys", NODEV_NOSUID_NOEXEC | k.ATTR_RDONLY),
            *(bind(f"/etc/{name}", f"/etc/{name}") for name in ("hosts", "hostname", "resolv.conf")),
            *more,
            *(ops.Readonly(target=path) for path in READONLY),
            *(ops.Mask(target=path) for path in MASKED),
        ),
        identity=(
            ops.StdioOwner(uid=0, gid=0),
            ops.Umask(mask=0o22),
            ops.BoundingSet(keep=default),
            ops.Groups(gids=()),
            ops.User(uid=0, gid=0),
            ops.Capabilities(effective=default, permitted=default, inheritable=0, ambient=0),
            ops.Chdir(path="/", create=0),
            ops.NoNewPrivs(),
        ),
    )
