"""From a runtime spec and the facts about a host and pod to a launch plan: pure, no root, no I/O.

Owns the order of what is done to a process between clone and exec, which is its security; each function's docstring numbers the steps
and the code repeats the numbers. Never opens, reads or asks anything: what it must know comes in ``Facts``, what it needs opened leaves as
fd labels in ``Plan.fds``. Test: tests/unit/oci/test_compile.py, plans as text in tests/golden/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.mountoptions import MountOptions, parse_options, parse_propagation
from orlop.oci.ops import FD, Fd, Op, Plan, make_plan
from orlop.oci.validate import check_sysctls, target_of, validate_process, validate_spec
from orlop.specs.runtime import Capabilities, IDMapping, Linux, Mount, Process, RuntimeSpec


class Inherited(msgspec.Struct, frozen=True):
    """The monitor is already in this namespace: a child of it is born there."""


class OfPodInit(msgspec.Struct, frozen=True):
    """The PID namespace of the pod's built-in init."""


class OfContainer(msgspec.Struct, frozen=True):
    """The PID namespace of another live container of the same pod."""

    container: str


Whereabouts = Inherited | OfPodInit | OfContainer | Fd
"""How to get into a namespace that the spec gives a path for. An Fd is joined with setns(2)."""

INHERITED: Final = Inherited()
OF_POD_INIT: Final = OfPodInit()


class CgroupBind(msgspec.Struct, frozen=True, kw_only=True):
    """cgroup v1: one hierarchy's directory of the container, shown at /sys/fs/cgroup/<name>."""

    name: str
    """As the host calls the mount: ``memory``, ``cpu,cpuacct``, ``systemd``."""
    source: str
    """The container's own directory in that hierarchy, a path of the host."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the compiler must know beside the spec. The defaults are those of ``orlop plan`` on a host with cgroup v2."""

    container_id: str = ""
    rootfs: Fd | None = Fd("rootfs")
    """Detached mount; None: root.path is bound instead."""
    trees: Mapping[str, Fd] = {}
    """Destination of a mount in the spec -> detached mount that stands there instead of what the spec says (the pod's shm, image volumes)."""
    userns: Mapping[str, Fd] = {}
    """Destination of an id-mapped mount -> user namespace with its mapping; without an entry the label is ``userns.<destination>``."""
    namespaces: Mapping[str, Whereabouts] = {}
    """Namespace type -> how to reach the one that the spec names by path; without an entry it is joined by the fd ``ns.<type>``."""
    monitor_namespaces: frozenset[str] = frozenset()
    """Types that the monitor does not share with the host. A spec without such a type means the host's: joined by the fd ``host.<type>``."""
    cgroup_v2: bool = True
    cgroup_clone: Fd | None = None
    """v2: the directory for CLONE_INTO_CGROUP."""
    cgroup_tasks: tuple[Fd, ...] = ()
    """v1: the ``tasks`` files, joined in this order; v2 without CLONE_INTO_CGROUP: one ``cgroup.procs``."""
    cgroup_binds: tuple[CgroupBind, ...] = ()
    """v1 only."""
    seccomp_filter: bytes = b""
    """Compiled linux.seccomp; empty when the spec has none."""
    seccomp_flags: int = 0
    last_capability: int = len(k.CAPABILITIES) - 1
    """/proc/sys/kernel/cap_last_cap."""
    clamp_limits: bool = False
    """The host lets nobody raise limits (no CAP_SYS_RESOURCE): take what is allowed instead of failing."""
    gate: bool = True
    """Stand at the gate until start; an exec runs through, unless:"""
    exec_gate: bool = False
    """An exec stands at the gate, too."""


_NEW_FLAGS: Final = {
    "user": k.CLONE_NEWUSER,
    "mount": k.CLONE_NEWNS,
    "pid": k.CLONE_NEWPID,
    "network": k.CLONE_NEWNET,
    "ipc": k.CLONE_NEWIPC,
    "uts": k.CLONE_NEWUTS,
    "cgroup": k.CLONE_NEWCGROUP,
    "time": k.CLONE_NEWTIME,
}
# In the order of joining: the user namespace first, it owns the others.
_JOIN_ORDER: Final = ("user", "ipc", "uts", "network", "cgroup", "time")
# These two cannot be made by clone3: the kernel takes a cgroup namespace's root from the caller's cgroup, which the child has not joined yet.
_UNSHARED_LATE: Final = ("cgroup", "time")

_KERNEL_FILESYSTEMS: Final = frozenset({"proc", "sysfs"})
_DEFAULT_UMASK: Final = 0o022
_DEVICE_MODE: Final = 0o666
# runtime-spec, config-linux.md, "Default Devices"; path -> major, minor. /dev/console, ptmx and the links are made by their own ops.
_DEFAULT_DEVICES: Final = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
_DEVICE_KINDS: Final = {"c": k.S_IFCHR, "u": k.S_IFCHR, "b": k.S_IFBLK, "p": k.S_IFIFO}
_DEV_LINKS: Final[tuple[Op, ...]] = (
    ops.Symlink(linktext="pts/ptmx", target="/dev/ptmx"),
    ops.Symlink(linktext="/proc/self/fd", target="/dev/fd"),
    ops.Symlink(linktext="/proc/self/fd/0", target="/dev/stdin"),
    ops.Symlink(linktext="/proc/self/fd/1", target="/dev/stdout"),
    ops.Symlink(linktext="/proc/self/fd/2", target="/dev/stderr"),
)
_DEFAULT_DEVICE_NODES: Final[tuple[Op, ...]] = tuple(
    ops.Mknod(target=path, mode=k.S_IFCHR | _DEVICE_MODE, major=major, minor=minor, uid=0, gid=0)
    for path, major, minor in _DEFAULT_DEVICES
)
_SETSID: Final = ops.Setsid()
_NO_NEW_PRIVS: Final = ops.NoNewPrivs()
_GATE: Final = ops.Gate()
_PIVOT_ROOT: Final = ops.PivotRoot()


def compile_container(spec: RuntimeSpec, facts: Facts) -> Plan:
    """Return the plan that makes a container of a valid spec.

     1  SPAWN     which PID namespace, then clone3 with the new ones: everything later happens in the child
     2  PARENT    id maps, oom score and limits are written from outside: the child may not have the right to
     3  JOIN      cgroup first, so that all that follows is charged to the container; then namespaces that others made, then the cgroup
                  namespace, whose root is the cgroup just joined; own session, own keyring
     4  NS        hostname and sysctls, before any mount of the container could cover /proc
     5  MOUNT     cut propagation to the host before the first mount; root; the spec's mounts in the spec's order, because later ones lie in
                  earlier ones; devices into the finished /dev; console; the working directory; then what must see all mounts: masked,
                  read-only paths, and mounts that become read-only only now that they are filled
     6  ROOT      pivot_root leaves the host's tree behind; the root becomes read-only last
     7  IDENTITY  stdio; what needs privileges: scheduling, bounding set, groups; the user; capabilities; then, as the user, the working
                  directory (CVE-2024-21626); LSM label; no_new_privs
     8  GATE      wait for start
     9  FINAL     seccomp. With no_new_privs it is the last thing before exec. Without, loading a filter needs CAP_SYS_ADMIN: step 7 kept
                  it, and the capabilities proper come after the filter
    10  exec

    Raises InvalidArgument naming the property, Unimplemented for a property that no op carries.
    """
    validate_spec(spec)
    process, linux, root = spec.process, spec.linux, spec.root
    if process is None or linux is None or root is None:
        raise InvalidArgument("config.json: process, root and linux are needed")
    _check_facts(process, linux, facts)
    own = {namespace.type: namespace.path for namespace in linux.namespaces}
    out: list[Op] = []

    # 1
    _spawn(out, own, facts)
    # 2
    if own.get("user") == "":
        out.append(ops.IdMaps(uid_map=_id_map(linux.uid_mappings), gid_map=_id_map(linux.gid_mappings), setgroups=1))
    _limits(out, process, facts)
    # 3
    _join(out, own, facts)
    # 4
    if spec.hostname:
        out.append(ops.Hostname(name=spec.hostname))
    if spec.domainname:
        out.append(ops.Domainname(name=spec.domainname))
    if linux.sysctl:
        for path, value in check_sysctls("linux.sysctl", linux.sysctl, own).items():
            out.append(ops.Sysctl(key=path, value=value))
    # 5
    _mounts(out, spec, process, linux, facts, new_user="user" in own)
    # 6
    out.append(_PIVOT_ROOT)
    propagation = parse_propagation(linux.rootfs_propagation) or 0
    if not propagation & (k.MS_SHARED | k.MS_UNBINDABLE):
        # The root is private since it was a detached mount; slave of nothing is private.
        propagation = 0
    if root.readonly or propagation:
        out.append(ops.RootfsAttrs(attr_set=k.ATTR_RDONLY if root.readonly else 0, attr_clr=0, propagation=propagation))
    # 7 to 10
    _identity(out, process, linux, facts, gate=facts.gate)
    return make_plan(out)


def compile_exec(process: Process, spec: RuntimeSpec, facts: Facts) -> Plan:
    """Return the join plan for one more process in the running container ``facts.container_id`` that ``spec`` made.

    1  SPAWN     the container's PID namespace; its mount (cgroup, user, time) namespaces are entered by the child; nothing new is made
    2  PARENT    oom score and limits
    3  JOIN      the exec's cgroup first; then the container's namespaces that are not the monitor's; session, keyring
    4  MOUNT     only the terminal, in the container's own devpts
    5  ROOT      chdir to the container's root
    6  IDENTITY to exec: as steps 7, 9 and 10 of compile_container; a gate only if asked for
    """
    validate_process(process)
    linux = spec.linux
    if linux is None or not facts.container_id:
        raise InvalidArgument("exec: a container's id and the spec with its linux object are needed")
    _check_facts(process, linux, facts)
    out: list[Op] = []
    # 1
    paths = {namespace.type: namespace.path for namespace in linux.namespaces}
    if paths.get("pid") == "":
        out.append(ops.JoinPidOf(container=facts.container_id))
    elif "pid" in paths:
        _join_pid(out, facts)
    out.append(ops.JoinMntOf(container=facts.container_id))
    out.append(ops.Clone(flags=0, cgroup=facts.cgroup_clone))
    # 2
    _limits(out, process, facts)
    # 3
    out.extend(ops.CgroupJoin(tasks=tasks) for tasks in facts.cgroup_tasks)
    for kind in ("ipc", "uts", "network"):
        if paths.get(kind) == "":
            out.append(ops.Setns(ns=Fd(f"container.{kind}"), nstype=_NEW_FLAGS[kind]))
        else:
            _enter(out, kind, paths, facts)
    out.append(_SETSID)
    _keyring(out, facts)
    # 4
    _terminal(out, process)
    # 5
    out.append(ops.ChrootFd())
    # 6
    _identity(out, process, linux, facts, gate=facts.exec_gate)
    return make_plan(out)


def compile_pod(
    *,
    network: bool,
    ipc: bool,
    uts: bool,
    hostname: str = "",
    sysctls: Mapping[str, str] | None = None,
    shared_pid: bool = False,
) -> Plan:
    """Return the plan that the monitor runs on itself when a pod is made; each flag says that the pod has that namespace of its own.

    1  unshare, all at once
    2  hostname, in the UTS namespace
    3  loopback up, before anything can listen
    4  sysctls of the new namespaces only
    5  the built-in init of a shared PID namespace: last, it is born into the namespaces above
    """
    out: list[Op] = []
    own = {name for name, wanted in (("network", network), ("ipc", ipc), ("uts", uts)) if wanted}
    # 1
    flags = sum(_NEW_FLAGS[name] for name in own)
    if flags:
        out.append(ops.PodUnshare(flags=flags))
    # 2
    if hostname:
        if not uts:
            raise InvalidArgument("hostname: needs a UTS namespace")
        if "\n" in hostname or "\r" in hostname or "\0" in hostname or len(hostname.encode()) > 64:
            raise InvalidArgument(f"hostname: {hostname!r} holds a line break or is longer than 64 bytes")
        out.append(ops.PodHostname(name=hostname))
    # 3
    if network:
        out.append(ops.PodLoopbackUp())
    # 4
    if sysctls:
        for path, value in check_sysctls("sysctls", sysctls, own).items():
            out.append(ops.PodSysctl(key=path, value=value))
    # 5
    if shared_pid:
        out.append(ops.PodInit())
    return make_plan(out)


def _check_facts(process: Process, linux: Linux, facts: Facts) -> None:
    if linux.seccomp is not None and not facts.seccomp_filter:
        raise InvalidArgument("linux.seccomp: given, but no compiled filter came with the facts")
    if linux.mount_label:
        raise Unimplemented("linux.mountLabel: not implemented")
    if process.exec_cpu_affinity is not None:
        raise Unimplemented("process.execCPUAffinity: not implemented")
    if process.apparmor_profile and process.selinux_label:
        raise InvalidArgument("process.selinuxLabel: a process has an AppArmor profile or an SELinux label, not both")


# ---- steps 1 to 3


def _spawn(out: list[Op], own: Mapping[str, str], facts: Facts) -> None:
    if own.get("pid"):
        _join_pid(out, facts)
    flags = 0
    for kind, path in own.items():
        if not path and kind not in _UNSHARED_LATE:
            flags |= _NEW_FLAGS[kind]
    out.append(ops.Clone(flags=flags, cgroup=facts.cgroup_clone))


def _join_pid(out: list[Op], facts: Facts) -> None:
    """A PID namespace is entered by being born in it."""
    where = facts.namespaces.get("pid", Fd("ns.pid"))
    if isinstance(where, OfPodInit):
        out.append(ops.JoinPodInit())
    elif isinstance(where, OfContainer):
        out.append(ops.JoinPidOf(container=where.container))
    elif not isinstance(where, Inherited):
        out.append(ops.JoinPid(ns=where))


def _limits(out: list[Op], process: Process, facts: Facts) -> None:
    clamp = int(facts.clamp_limits)
    if process.oom_score_adj is not None:
        out.append(ops.OomScoreAdj(value=process.oom_score_adj, clamp=clamp))
    for limit in process.rlimits:
        out.append(ops.Rlimit(resource=k.RLIMIT_NUMBERS[limit.type], soft=limit.soft, hard=limit.hard, clamp=clamp))


def _join(out: list[Op], own: Mapping[str, str], facts: Facts) -> None:
    for tasks in facts.cgroup_tasks:
        out.append(ops.CgroupJoin(tasks=tasks))
    late = 0
    for kind in _JOIN_ORDER:
        if own.get(kind) == "":
            if kind in _UNSHARED_LATE:
                late |= _NEW_FLAGS[kind]
        else:
            _enter(out, kind, own, facts)
    if late:
        out.append(ops.Unshare(flags=late))
    out.append(_SETSID)
    _keyring(out, facts)


def _enter(out: list[Op], kind: str, paths: Mapping[str, str], facts: Facts) -> None:
    """Join a namespace that others made, when the monitor's child is not in it by birth."""
    if kind not in paths:
        if kind in facts.monitor_namespaces:
            out.append(ops.Setns(ns=Fd(f"host.{kind}"), nstype=_NEW_FLAGS[kind]))
        return
    where = facts.namespaces.get(kind, Fd(f"ns.{kind}"))
    if isinstance(where, str):
        out.append(ops.Setns(ns=where, nstype=_NEW_FLAGS[kind]))
    elif not isinstance(where, Inherited):
        raise InvalidArgument(f"linux.namespaces: {kind} cannot be joined through a process of the pod")


def _keyring(out: list[Op], facts: Facts) -> None:
    """Without it the container would read the session keyring of whoever started the monitor."""
    if facts.container_id:
        out.append(ops.SessionKeyring(name="_ses." + facts.container_id))


def _id_map(mappings: Sequence[IDMapping]) -> str:
    return "".join(f"{mapping.container_id} {mapping.host_id} {mapping.size}\n" for mapping in mappings)


# ---- step 5


def _mounts(out: list[Op], spec: RuntimeSpec, process: Process, linux: Linux, facts: Facts, *, new_user: bool) -> None:
    parsed = [
        (target_of(f"mounts[{index}].destination", mount.destination), mount, parse_options(mount.options))
        for index, mount in enumerate(spec.mounts)
    ]
    propagation = parse_propagation(linux.rootfs_propagation) or 0
    if propagation & k.MS_UNBINDABLE:
        # Of the new root, see step 6: here it would forbid every bind of the host's files.
        propagation = k.MS_PRIVATE
    elif not propagation:
        # Nothing wants to hear of the host's mounts: private, so that clones of them need not be made private one by one. Otherwise as
        # runc does, slave: the host never hears of ours.
        listens = any(options.propagation & (k.MS_SLAVE | k.MS_SHARED) for _, _, options in parsed)
        propagation = (k.MS_SLAVE if listens else k.MS_PRIVATE) | k.MS_REC
    out.append(ops.RootPropagation(flags=propagation | k.MS_REC))
    private = bool(propagation & k.MS_PRIVATE)
    # For clones of host mounts that the spec does not speak of.
    hidden = 0 if private else k.MS_PRIVATE | k.MS_REC

    if facts.rootfs is not None:
        out.append(ops.Rootfs(tree=facts.rootfs, source="", flags=0))
    else:
        source = spec.root.path if spec.root else ""
        if not source.startswith("/"):
            raise InvalidArgument(f"root.path: {source!r} is not an absolute path")
        out.append(ops.Rootfs(tree=None, source=source, flags=0))

    # Mounts that something still has to be put into become read-only in the end.
    sealed: list[Op] = []
    bound_dev = False
    for index, (target, mount, options) in enumerate(parsed):
        tree = facts.trees.get(target)
        bind = options.bind or mount.type == "bind"
        if target == "/dev" and bind and tree is None:
            bound_dev = True
        if tree is not None or (bind and not options.remount):
            _bind(out, target, mount, options, facts, index=index, tree=tree, private=private)
        elif options.remount:
            out.append(_attributes(target, options, propagation=options.propagation))
        elif mount.type in ("cgroup", "cgroup2"):
            _cgroup(out, target, options, linux, facts, propagation=hidden)
        else:
            _new(out, sealed, target, mount, options, filled_later=_filled_later(target, index, parsed))
    # A bound /dev is the host's: nothing may be made in it.
    if not bound_dev:
        _devices(out, linux, new_user=new_user, propagation=hidden)
    _terminal(out, process)
    if process.terminal:
        out.append(ops.Console(unused=0))
    cwd = target_of("process.cwd", process.cwd)
    if cwd != "/":
        # As root and before the root is read-only, as runc does; the change into it happens as the user.
        out.append(ops.Mkdir(target=cwd, mode=0o755))
    for path in linux.readonly_paths:
        out.append(ops.Readonly(target=target_of("linux.readonlyPaths", path)))
    for path in linux.masked_paths:
        out.append(ops.Mask(target=target_of("linux.maskedPaths", path)))
    out.extend(sealed)


def _filled_later(target: str, index: int, parsed: Sequence[tuple[str, Mount, MountOptions]]) -> bool:
    """Whether mount points or nodes still have to be made in it; the kernel's own filesystems have theirs already."""
    if parsed[index][1].type in _KERNEL_FILESYSTEMS:
        return False
    below = target + "/"
    return target == "/dev" or any(other.startswith(below) for other, _, _ in parsed[index + 1 :])


def _attributes(target: str, options: MountOptions, *, propagation: int) -> Op:
    recursive = bool(options.recursive_attr_set or options.recursive_attr_clr)
    return ops.MountMoveAttrs(
        target=target,
        attr_set=options.attr_set | options.recursive_attr_set,
        attr_clr=options.attr_clr | options.recursive_attr_clr,
        propagation=propagation,
        recursive=int(recursive),
    )


def _new(
    out: list[Op], sealed: list[Op], target: str, mount: Mount, options: MountOptions, *, filled_later: bool
) -> None:
    """A filesystem of its own. It has no submounts yet, so recursive attributes are plain ones."""
    attrs = options.attr_set | options.recursive_attr_set
    if attrs & k.ATTR_RDONLY and filled_later:
        attrs &= ~k.ATTR_RDONLY
        sealed.append(ops.MountMoveAttrs(target=target, attr_set=k.ATTR_RDONLY, attr_clr=0, propagation=0, recursive=0))
    out.append(
        ops.MountNew(
            fstype=mount.type,
            source=mount.source or mount.type,
            target=target,
            attrs=attrs,
            options=options.superblock + options.data,
            flags=ops.NEW_CREATE | (ops.NEW_TMPCOPYUP if options.copy_up and mount.type == "tmpfs" else 0),
        )
    )
    if options.propagation & ~k.MS_REC & ~k.MS_PRIVATE:
        out.append(
            ops.MountMoveAttrs(target=target, attr_set=0, attr_clr=0, propagation=options.propagation, recursive=0)
        )


def _bind(
    out: list[Op],
    target: str,
    mount: Mount,
    options: MountOptions,
    facts: Facts,
    *,
    index: int,
    tree: FD,
    private: bool,
) -> None:
    """A clone of what lies at a path of the host, or a detached mount that somebody made for us."""
    if tree is None and not mount.source.startswith("/"):
        raise InvalidArgument(f"mounts[{index}].source: {mount.source!r} is not an absolute path")
    # One mount_setattr(2) applies either to the mount alone or to all below it: when both are asked for, the op carries the recursive
    # part and a second op the plain one.
    recursive = bool(options.recursive_attr_set or options.recursive_attr_clr)
    plain = bool(options.attr_set or options.attr_clr)
    propagation = options.propagation
    if tree is None and private and propagation & ~k.MS_REC in (0, k.MS_PRIVATE):
        propagation = 0
    elif tree is not None and not propagation:
        propagation = k.MS_PRIVATE | k.MS_REC
    flags = ops.BIND_CREATE
    if options.recursive_bind:
        flags |= ops.BIND_RECURSIVE
    if recursive:
        flags |= ops.BIND_ATTRS_RECURSIVE
    userns: FD = None
    if mount.uid_mappings or options.idmap:
        userns = facts.userns.get(target, Fd(f"userns.{target}"))
        if options.recursive_idmap:
            if plain:
                raise InvalidArgument(f"mounts[{index}].options: ridmap goes with recursive attributes only")
            flags |= ops.BIND_ATTRS_RECURSIVE
    out.append(
        ops.MountBind(
            tree=tree,
            source="" if tree is not None else mount.source,
            target=target,
            flags=flags,
            attr_set=options.recursive_attr_set if recursive else options.attr_set,
            attr_clr=options.recursive_attr_clr if recursive else options.attr_clr,
            propagation=propagation,
            userns=userns,
        )
    )
    if recursive and plain:
        out.append(
            ops.MountMoveAttrs(
                target=target, attr_set=options.attr_set, attr_clr=options.attr_clr, propagation=0, recursive=0
            )
        )


def _cgroup(out: list[Op], target: str, options: MountOptions, linux: Linux, facts: Facts, *, propagation: int) -> None:
    attrs = options.attr_set | options.recursive_attr_set
    if facts.cgroup_v2:
        if any(namespace.type == "cgroup" for namespace in linux.namespaces):
            out.append(
                ops.MountNew(
                    fstype="cgroup2", source="cgroup", target=target, attrs=attrs, options=(), flags=ops.NEW_CREATE
                )
            )
        else:
            # A new mount without a cgroup namespace would reconfigure the host's one superblock (nsdelegate would be lost).
            out.append(
                ops.MountBind(
                    tree=None,
                    source="/sys/fs/cgroup",
                    target=target,
                    flags=ops.BIND_CREATE | ops.BIND_RECURSIVE | ops.BIND_ATTRS_RECURSIVE,
                    attr_set=attrs,
                    attr_clr=0,
                    propagation=propagation,
                    userns=None,
                )
            )
        return
    # v1: the container sees its own directory of each hierarchy as that hierarchy's root, as runc shows it, with a cgroup namespace or without.
    out.append(
        ops.MountNew(
            fstype="tmpfs",
            source="cgroup",
            target=target,
            attrs=attrs & ~k.ATTR_RDONLY,
            options=("mode=755",),
            flags=ops.NEW_CREATE,
        )
    )
    for bind in facts.cgroup_binds:
        out.append(
            ops.MountBind(
                tree=None,
                source=bind.source,
                target=f"{target}/{bind.name}",
                flags=ops.BIND_CREATE,
                attr_set=attrs,
                attr_clr=0,
                propagation=propagation,
                userns=None,
            )
        )
        if "," in bind.name:
            for name in bind.name.split(","):
                out.append(ops.Symlink(linktext=bind.name, target=f"{target}/{name}"))
    if attrs & k.ATTR_RDONLY:
        out.append(ops.MountMoveAttrs(target=target, attr_set=k.ATTR_RDONLY, attr_clr=0, propagation=0, recursive=0))


def _devices(out: list[Op], linux: Linux, *, new_user: bool, propagation: int) -> None:
    """Nodes of the specification's default list, unless the spec has the same path itself, then the spec's."""
    named = {device.path for device in linux.devices}
    for node, (path, _, _) in zip(_DEFAULT_DEVICE_NODES, _DEFAULT_DEVICES, strict=True):
        if path not in named:
            out.append(_bind_device(path, path, propagation) if new_user else node)
    for index, device in enumerate(linux.devices):
        target = target_of(f"linux.devices[{index}].path", device.path)
        parent = target.rpartition("/")[0]
        if parent not in ("", "/dev"):
            out.append(ops.Mkdir(target=parent, mode=0o755))
        if new_user and device.type != "p":
            # The kernel refuses mknod in a user namespace.
            out.append(_bind_device(device.path, target, propagation))
            continue
        mode = _DEVICE_MODE if device.file_mode is None else device.file_mode & 0o7777
        out.append(
            ops.Mknod(
                target=target,
                mode=_DEVICE_KINDS[device.type] | mode,
                major=device.major,
                minor=device.minor,
                uid=device.uid or 0,
                gid=device.gid or 0,
            )
        )
    out.extend(_DEV_LINKS)


def _bind_device(source: str, target: str, propagation: int) -> Op:
    return ops.MountBind(
        tree=None,
        source=source,
        target=target,
        flags=ops.BIND_CREATE,
        attr_set=k.ATTR_NOEXEC | k.ATTR_NOSUID,
        attr_clr=0,
        propagation=propagation,
        userns=None,
    )


def _terminal(out: list[Op], process: Process) -> None:
    if process.terminal:
        size = process.console_size
        out.append(ops.Terminal(rows=size.height if size else 0, cols=size.width if size else 0))


# ---- steps 7 to 10


def _identity(out: list[Op], process: Process, linux: Linux, facts: Facts, *, gate: bool) -> None:
    user = process.user
    if not process.terminal:
        out.append(ops.Stdio(in_=None, out=None, err=None))
    out.append(ops.StdioOwner(uid=user.uid, gid=user.gid))
    out.append(ops.Umask(mask=_DEFAULT_UMASK if user.umask is None else user.umask))
    if linux.personality is not None:
        out.append(ops.Personality(persona=k.PERSONALITIES[linux.personality.domain]))
    if process.io_priority is not None:
        io = process.io_priority
        out.append(ops.IoPriority(priority=k.IOPRIO_CLASSES[io.class_] << k.IOPRIO_CLASS_SHIFT | io.priority))
    if process.scheduler is not None:
        scheduler = process.scheduler
        out.append(
            ops.Scheduler(
                policy=k.SCHEDULER_POLICIES[scheduler.policy],
                nice=scheduler.nice,
                priority=scheduler.priority,
                flags=sum({k.SCHEDULER_FLAGS[name] for name in scheduler.flags}),
                runtime=scheduler.runtime,
                deadline=scheduler.deadline,
                period=scheduler.period,
            )
        )
    sets = process.capabilities or Capabilities()
    limit = (1 << (facts.last_capability + 1)) - 1
    effective, permitted, inheritable, ambient = (
        k.capability_mask(names) & limit for names in (sets.effective, sets.permitted, sets.inheritable, sets.ambient)
    )
    # capabilities(7): only what is permitted and inheritable can be ambient. Documents ask for more (that of `runc spec` does), and by the
    # specification what cannot be granted is no reason to fail.
    ambient &= permitted & inheritable
    # Dropping from the bounding set needs CAP_SETPCAP, setting groups CAP_SETGID: before the user changes.
    out.append(ops.BoundingSet(keep=k.capability_mask(sets.bounding) & limit))
    out.append(ops.Groups(gids=user.additional_gids))
    out.append(ops.User(uid=user.uid, gid=user.gid))
    filtered = bool(facts.seccomp_filter) and linux.seccomp is not None
    keep_admin = filtered and not process.no_new_privileges
    if keep_admin:
        out.append(
            ops.Capabilities(
                effective=effective | k.CAP_SYS_ADMIN,
                permitted=permitted | k.CAP_SYS_ADMIN,
                inheritable=inheritable,
                ambient=0,
            )
        )
    else:
        out.append(ops.Capabilities(effective=effective, permitted=permitted, inheritable=inheritable, ambient=ambient))
    out.append(ops.Chdir(path=process.cwd, create=0))
    if process.apparmor_profile:
        out.append(ops.LsmLabel(lsm="apparmor", label=process.apparmor_profile))
    if process.selinux_label:
        out.append(ops.LsmLabel(lsm="selinux", label=process.selinux_label))
    if process.no_new_privileges:
        out.append(_NO_NEW_PRIVS)
    # 8
    if gate:
        out.append(_GATE)
    # 9
    if filtered:
        out.append(ops.Seccomp(filter=facts.seccomp_filter, flags=facts.seccomp_flags))
    if keep_admin:
        out.append(ops.FinalCaps(effective=effective, permitted=permitted, inheritable=inheritable, ambient=ambient))
    # 10
    out.append(ops.Exec(path=process.args[0], argv=process.args, envp=process.env))
