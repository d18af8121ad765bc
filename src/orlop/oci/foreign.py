"""Containers that the program of another runtime makes (crun, runc): its command lines, its config.json, and the plan that runs it. Pure.

    runtime spec -> program_spec: paths instead of fds, no newer than the program -> written as BUNDLE/config.json by the caller
    command line -> compile_program: a plan with op foreign; its mounts are placed below BUNDLE, in the program's own mount namespace

The program sees the host as containerd's would: the host's network, IPC and UTS namespaces, its root file system, its cgroups. What differs is
seen by nobody else: the root and other detached mounts below BUNDLE, and an empty directory where a hybrid host has its unified hierarchy,
because crun refuses such a host; membership there comes by birth. Never opens, never runs anything. Test: tests/unit/oci/test_foreign.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import FD, Fd, Op, Plan, make_plan
from orlop.specs.ociruntime import older_of
from orlop.specs.runtime import Mount, Process, RuntimeSpec

BUNDLE: Final = Fd("bundle")
CONSOLE: Final = Fd("console")
ROOTFS: Final = Fd("rootfs")
CGROUP_CLONE: Final = Fd("cgroup.clone")

CONFIG: Final = "config.json"
ROOT: Final = "rootfs"
PID: Final = "pid"
LOG: Final = "log"
CONSOLE_SOCKET: Final = "console.sock"

HOST_NAMESPACES: Final = (
    ("network", "net", k.CLONE_NEWNET),
    ("ipc", "ipc", k.CLONE_NEWIPC),
    ("uts", "uts", k.CLONE_NEWUTS),
)
"""Those that the monitor has left: type, file in /proc/self/ns, flag."""
ENVIRONMENT: Final = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """The program of a runtime, and what it can."""

    path: str
    release: str = ""
    spec_max: str = ""
    """The newest runtime-spec that it reads; empty: unknown."""
    recursive_read_only: bool = False
    idmapped_mounts: bool = False
    exec_cgroup: bool = False
    """``exec --cgroup`` puts a command into a cgroup of its own."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Where nobody may raise limits (no CAP_SYS_RESOURCE): what the program itself has, and can hand on."""

    oom_score_adj: int
    hard: Mapping[str, int]
    """RLIMIT_* -> hard limit."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a program sees of the host."""

    hidden: tuple[str, ...] = ()
    """Directories with an empty one on top of them; the fd of each is ``hidden.<path>``."""
    shared: bool = False
    """A volume carries mounts to the host: only the mounts in ``private`` leave the host's peer groups. Else all become its slaves."""
    private: tuple[str, ...] = ()
    """Mount points below which something is placed."""
    cgroup: FD = None
    """v1: where in the unified hierarchy it is born, and with it what it makes."""


def hidden_label(path: str) -> Fd:
    return Fd(f"hidden.{path}")


# ---- command lines


def command_line(program: Program, root: str, log: str, *words: str) -> tuple[str, ...]:
    """Return a command of the program with its own directory of states and its log."""
    return (program.path, "--root", root, "--log", log, "--log-format", "json", *words)


def create_words(container_id: str, bundle: str, *, terminal: bool) -> tuple[str, ...]:
    # Names of sockets are relative to the working directory, the bundle: a whole path does not fit into an address.
    console = ("--console-socket", CONSOLE_SOCKET) if terminal else ()
    return ("create", "--bundle", bundle, "--pid-file", f"{bundle}/{PID}", *console, container_id)


def exec_words(
    program: Program, container_id: str, exec_id: str, *, process: str, pid_file: str, console: str, cgroup: bool
) -> tuple[str, ...]:
    """``console`` is relative to the working directory, empty without a terminal."""
    terminal = ("--tty", "--console-socket", console) if console else ()
    own = ("--cgroup", exec_id) if cgroup and program.exec_cgroup else ()
    return ("exec", "--detach", "--process", process, "--pid-file", pid_file, *terminal, *own, container_id)


# ---- config.json


def program_spec(
    spec: RuntimeSpec,
    program: Program,
    bundle: str,
    trees: Mapping[str, Fd],
    cgroup: str,
    limits: Limits | None,
    subject: str,
) -> tuple[RuntimeSpec, tuple[tuple[Fd, str], ...]]:
    """Return the program's document, and which detached mount goes to which path: the root and ``trees`` (mount point -> fd).

    Raises Unimplemented for what the program cannot do.
    """
    places: list[tuple[Fd, str]] = [(ROOTFS, f"{bundle}/{ROOT}")]
    mounts: list[Mount] = []
    for mount in spec.mounts:
        if (mount.uid_mappings or mount.gid_mappings) and not program.idmapped_mounts:
            raise Unimplemented(
                f"{subject}: mounts: {mount.destination}: {program.path} {program.release} cannot make id-mapped mounts"
            )
        tree = trees.get(mount.destination)
        if tree is None:
            mounts.append(mount)
            continue
        path = f"{bundle}/mount{len(places)}"
        places.append((tree, path))
        mounts.append(msgspec.structs.replace(mount, type="bind", source=path, options=_bind_options(mount)))
    process = _clamped(spec.process, limits) if spec.process is not None and limits is not None else spec.process
    root = spec.root
    return (
        msgspec.structs.replace(
            spec,
            oci_version=older_of(spec.oci_version, program.spec_max),
            root=msgspec.structs.replace(root, path=f"{bundle}/{ROOT}") if root is not None else None,
            mounts=tuple(mounts),
            process=process,
            linux=msgspec.structs.replace(spec.linux, cgroups_path=cgroup) if spec.linux is not None else None,
        ),
        tuple(places),
    )


def _bind_options(mount: Mount) -> tuple[str, ...]:
    """A detached mount is finished: what says how to make its file system (mode=, size=) is left out."""
    kept = tuple(option for option in mount.options if "=" not in option)
    return kept if "rbind" in kept or "bind" in kept else ("rbind", "rprivate", *kept)


def _clamped(process: Process, limits: Limits) -> Process:
    score = process.oom_score_adj
    return msgspec.structs.replace(
        process,
        oom_score_adj=None if score is None else max(score, limits.oom_score_adj),
        rlimits=tuple(
            msgspec.structs.replace(each, hard=min(each.hard, most), soft=min(each.soft, each.hard, most))
            for each in process.rlimits
            for most in (limits.hard.get(each.type, each.hard),)
        ),
    )


def document(value: RuntimeSpec | Process, subject: str) -> bytes:
    """Return the JSON of a config.json or of ``exec --process``, with every property that the specification requires, also one that is zero.

    Raises InvalidArgument for an argument or variable that is not UTF-8: JSON cannot carry it.
    """
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{subject}: an argument or a variable is not UTF-8, which a config.json cannot carry"
        ) from error
    whole: dict[str, Any] = msgspec.json.decode(text)
    process = whole.get("process", {}) if isinstance(value, RuntimeSpec) else whole
    process["user"] = {"uid": 0, "gid": 0, **process.get("user", {})}
    process["rlimits"] = [{"soft": 0, "hard": 0, **each} for each in process.get("rlimits", ())]
    linux = whole.get("linux", {})
    mapped = [linux, *whole.get("mounts", ())]
    for owner, name in ((owner, name) for owner in mapped for name in ("uidMappings", "gidMappings") if name in owner):
        owner[name] = [{"containerID": 0, "hostID": 0, "size": 0, **each} for each in owner[name]]
    resources = linux.get("resources", {})
    if "hugepageLimits" in resources:
        resources["hugepageLimits"] = [{"limit": 0, **each} for each in resources["hugepageLimits"]]
    for rule in linux.get("seccomp", {}).get("syscalls", ()):
        if "args" in rule:
            rule["args"] = [{"value": 0, **each} for each in rule["args"]]
    return msgspec.json.encode(whole)


# ---- plans


def compile_program(
    argv: tuple[str, ...],
    room: Room,
    *,
    directory: str,
    makes: ops.Foreign | None = None,
    places: tuple[tuple[Fd, str], ...] = (),
    gate: bool = False,
) -> Plan:
    """Return the plan that runs a program in ``directory`` on the stdio of the container or exec, /dev/null where it has none.

    1  a mount namespace of its own
    2  out of the pod's namespaces: the program joins them by the paths in its document
    3  no mount of it reaches the host, but for volumes that want it
    4  what it must find, and must not
    """
    steps: list[Op] = [ops.Clone(flags=k.CLONE_NEWNS, cgroup=room.cgroup)]
    if makes is not None:
        steps.insert(0, makes)
    steps += (ops.Setns(ns=Fd(f"host.{kind}"), nstype=flag) for kind, _, flag in HOST_NAMESPACES)
    steps.append(ops.Setsid())
    if room.shared:
        steps += (ops.HostPropagation(path=path, flags=k.MS_PRIVATE) for path in (*room.private, *room.hidden))
    else:
        steps.append(ops.RootPropagation(flags=k.MS_SLAVE | k.MS_REC))
    steps += (ops.Place(tree=hidden_label(path), path=path) for path in room.hidden)
    steps += (ops.Place(tree=tree, path=path) for tree, path in places)
    steps.append(ops.Stdio(in_=None, out=None, err=None))
    steps.append(ops.Chdir(path=directory, create=0))
    if gate:
        steps.append(ops.Gate())
    steps.append(ops.Exec(path=argv[0], argv=argv, envp=ENVIRONMENT))
    return make_plan(steps)
