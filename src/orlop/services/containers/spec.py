"""From CRI's ContainerConfig and the image's defaults to an OCI runtime spec: pure, except for the one function that says so.

Owns the defaults of a Kubernetes container (mounts, capabilities, environment, devices) and the precedence between pod, container and
image. What must be opened, made or looked up is an argument or is handed back in ``BuiltSpec``. Never compiles a plan, never touches a
file. The defaults are those that images and kubelet expect from containerd. Test: tests/unit/services/containers/test_spec.py.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from orlop.base.errors import FailedPrecondition, InvalidArgument, Unimplemented
from orlop.oci.compile import INHERITED, OF_POD_INIT, Facts, OfContainer, Whereabouts
from orlop.oci.kernelnames import CAPABILITY_BITS
from orlop.oci.ops import Fd
from orlop.oci.validate import target_of
from orlop.security.profiles import Profile, load_localhost, runtime_default
from orlop.services.containers.user import ResolvedUser
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerConfig, ContainerSecurity, NamespaceMode, ProfileType, Propagation, SandboxConfig

SHM_PATH: Final = "/dev/shm"  # noqa: S108 - a mount point inside the container
SHM_FD: Final = Fd("pod.shm")
PATH_DEFAULT: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


class ImageDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What an image's config says about its processes."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = {}


class PodFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files of the pod that every container sees; an empty path is left out."""

    hosts: str = ""
    resolv_conf: str = ""
    hostname: str = ""


NO_FILES: Final = PodFiles()


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What this node is and can."""

    capabilities: tuple[str, ...]
    """All that the kernel has and the daemon may give: what ``ALL`` and privileged mean. Sorted by number."""
    hostname: str = ""
    cgroup_v2: bool = True
    apparmor: bool = False
    apparmor_default: str = ""
    """Name of the loaded default profile; empty: none is loaded, RuntimeDefault confines nothing."""
    selinux: bool = False
    hugetlb: bool = True
    swap: bool = True
    recursive_readonly: bool = True
    devices: tuple[oci.Device, ...] = ()
    """All device nodes of the host, for privileged containers."""
    seccomp_directory: str = ""
    """Where relative names of localhost seccomp profiles are looked up."""


class BuiltSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A spec, and what its caller must provide for it."""

    spec: oci.RuntimeSpec
    namespaces: dict[str, Whereabouts]
    monitor_namespaces: frozenset[str]
    trees: dict[str, Fd]
    """Mount point -> label of the detached mount to be passed: SHM_FD (a clone of the pod's shm), ``image.<mount point>``."""
    host_directories: tuple[str, ...]
    """Sources of bind mounts: one that does not exist is to be made as a directory (0755)."""
    stop_signal: int

    def facts(self, container_id: str) -> Facts:
        """Return the facts that follow from the config; the caller replaces those of cgroup, seccomp and kernel."""
        return Facts(
            container_id=container_id,
            namespaces=self.namespaces,
            monitor_namespaces=self.monitor_namespaces,
            trees=self.trees,
        )


def build_spec(
    config: ContainerConfig,
    sandbox: SandboxConfig,
    image: ImageDefaults,
    *,
    user: ResolvedUser,
    host: Host,
    files: PodFiles = NO_FILES,
    sandbox_id: str = "",
    rootfs: str = "rootfs",
    cgroups_path: str = "",
    monitor_pid: int = 0,
    init_pid: int = 0,
    target_pid: int = 0,
    devices: tuple[oci.Device, ...] = (),
    profile: Profile | None = None,
) -> BuiltSpec:
    """Return the container's runtime spec.

    ``devices`` are the nodes of ``config.devices`` (devices.py reads them), ``profile`` is choose_seccomp's. The pids only make the
    namespace paths of the document true for its readers; the plan enters namespaces by fd. Raises InvalidArgument that names the field,
    FailedPrecondition when the host lacks what is asked, Unimplemented.
    """
    subject = f"container {config.metadata.name}"
    security = config.security
    if security.privileged and not sandbox.security.privileged:
        raise InvalidArgument(f"{subject}: privileged: its sandbox is not privileged")
    namespaces, where, unshared = _namespaces(
        security, sandbox, host, subject=subject, pids=(monitor_pid, init_pid, target_pid)
    )
    host_ipc = sandbox.security.namespaces.ipc is NamespaceMode.NODE
    mounts, trees, directories, propagation = _mounts(config, host, files, subject=subject, host_ipc=host_ipc)
    process = _process(config, sandbox, image, user=user, host=host, subject=subject)
    if security.privileged:
        nodes = _merge_devices(host.devices, devices)
        rules: tuple[oci.DeviceCgroup, ...] = (oci.DeviceCgroup(allow=True, access="rwm"),)
    else:
        nodes = devices
        rules = DEFAULT_DEVICE_RULES
        if devices:
            rules += tuple(_device_rule(config, index, device) for index, device in enumerate(devices))
    spec = oci.RuntimeSpec(
        oci_version=oci.VERSION,
        process=process,
        root=oci.Root(path=rootfs, readonly=security.readonly_rootfs),
        mounts=mounts,
        annotations=_annotations(config, sandbox, sandbox_id),
        linux=oci.Linux(
            resources=_resources(config.resources, host, rules, subject),
            cgroups_path=cgroups_path,
            namespaces=namespaces,
            devices=nodes,
            seccomp=profile.seccomp if profile is not None else None,
            rootfs_propagation=propagation,
            # An empty list means none, as in containerd: kubelet always says which paths it wants hidden.
            masked_paths=() if security.privileged else security.masked_paths,
            readonly_paths=() if security.privileged else security.readonly_paths,
        ),
    )
    return BuiltSpec(
        spec=spec,
        namespaces=where,
        monitor_namespaces=unshared,
        trees=trees,
        host_directories=directories,
        stop_signal=stop_signal(config, image),
    )


def build_exec_process(spec: oci.RuntimeSpec, command: tuple[str, ...], *, tty: bool) -> oci.Process:
    """Return the process of an exec in a container: the container's own with another command and terminal."""
    if not command:
        raise InvalidArgument("cmd: empty")
    if spec.process is None:
        raise InvalidArgument("config.json: process: missing")
    env = spec.process.env
    if tty and not any(entry.startswith("TERM=") for entry in env):
        env = (*env, "TERM=xterm")
    return msgspec.structs.replace(spec.process, args=command, terminal=tty, env=env, console_size=None)


# ---- process


def _process(
    config: ContainerConfig,
    sandbox: SandboxConfig,
    image: ImageDefaults,
    *,
    user: ResolvedUser,
    host: Host,
    subject: str,
) -> oci.Process:
    security = config.security
    cwd = config.working_dir or image.working_dir or "/"
    if not cwd.startswith("/"):
        if config.working_dir:
            raise InvalidArgument(f"{subject}: working_dir: {cwd!r} is not an absolute path")
        cwd = "/" + cwd
    return oci.Process(
        terminal=config.tty,
        user=oci.User(uid=user.uid, gid=user.gid, additional_gids=user.groups),
        args=_command(config, image, subject),
        env=_environment(config, sandbox, image, home=user.home, hostname=host.hostname, subject=subject),
        cwd=cwd,
        capabilities=container_capabilities(security, host),
        no_new_privileges=security.no_new_privs,
        oom_score_adj=config.resources.oom_score_adj,
        apparmor_profile=_apparmor(security, host, subject),
        selinux_label=_selinux(security, host, subject),
    )


def _command(config: ContainerConfig, image: ImageDefaults, subject: str) -> tuple[str, ...]:
    """A command replaces entrypoint and cmd, args alone replace only cmd: Docker's rule."""
    if config.command:
        command, args = config.command, config.args
    else:
        command, args = image.entrypoint, config.args or image.cmd
        if command == ("",):
            command = ()
    if not command and not args:
        raise InvalidArgument(f"{subject}: no command: neither the container nor its image says what to run")
    return command + args


def _environment(
    config: ContainerConfig, sandbox: SandboxConfig, image: ImageDefaults, *, home: str, hostname: str, subject: str
) -> tuple[str, ...]:
    """Defaults, then the image's, then the container's; a later value takes the place of an earlier one of the same name."""
    env = {"PATH": PATH_DEFAULT}
    if config.tty:
        env["TERM"] = "TERM=xterm"
    env["HOSTNAME"] = "HOSTNAME=" + (sandbox.hostname or hostname)
    for entry in image.env:
        name, equals, _ = entry.partition("=")
        if not name:
            continue
        if equals:
            env[name] = entry
        else:
            # Docker: a name alone takes the variable away.
            env.pop(name, None)
    for item in config.envs:
        if not item.key or "=" in item.key or "\0" in item.key:
            raise InvalidArgument(f"{subject}: envs: {item.key!r} is not a name")
        env[item.key] = item.key + "=" + item.value.decode("utf-8", "surrogateescape")
    if "HOME" not in env:
        env["HOME"] = "HOME=" + home
    for name in ("HOME", "HOSTNAME"):
        # These two are copied into files by programs that know no quoting (CVE-2026-15809).
        if "\n" in env.get(name, "") or "\r" in env.get(name, ""):
            raise InvalidArgument(f"{subject}: envs: {name} holds a line break")
    return tuple(env.values())


def container_capabilities(security: ContainerSecurity, host: Host) -> oci.Capabilities:
    """Return the five sets. Inheritable is empty (CVE-2022-24769) unless ambient capabilities are asked for, which need it."""
    return _capability_sets(security.capabilities, security.privileged, host.capabilities)


@lru_cache(maxsize=256)
def _capability_sets(wanted: pod.Capabilities, privileged: bool, every: tuple[str, ...]) -> oci.Capabilities:
    add = [_capability("add_capabilities", name) for name in wanted.add]
    drop = [_capability("drop_capabilities", name) for name in wanted.drop]
    ambient = [_capability("add_ambient_capabilities", name) for name in wanted.add_ambient]
    if privileged:
        chosen = set(every)
    else:
        chosen = set(every) if "ALL" in add else set(DEFAULT_CAPABILITIES)
        if "ALL" in drop:
            chosen = set()
        chosen.update(add)
        chosen.difference_update(drop)
        chosen.discard("ALL")
    lifted = set(every) if "ALL" in ambient else set(ambient)
    for name in (*add, *ambient):
        # A default that the host cannot give is left out; what was asked for by name is not.
        if name != "ALL" and name not in every:
            raise InvalidArgument(f"capabilities: {name} is not available on this host")
    chosen |= lifted
    full = tuple(name for name in every if name in chosen)
    raised = tuple(name for name in every if name in lifted)
    return oci.Capabilities(bounding=full, effective=full, permitted=full, inheritable=raised, ambient=raised)


def _capability(field: str, name: str) -> str:
    word = name.upper()
    if word == "ALL":
        return word
    full = word if word.startswith("CAP_") else "CAP_" + word
    if full not in CAPABILITY_BITS:
        raise InvalidArgument(f"capabilities.{field}: unknown capability {name!r}")
    return full


def choose_seccomp(security: ContainerSecurity, host: Host) -> Profile | None:
    """Return the container's seccomp profile, None for unconfined. Reads the file of a localhost profile: the only I/O here.

    No profile means unconfined, as in containerd: kubelet says RuntimeDefault when it wants that.
    """
    wanted = security.seccomp
    if security.privileged or wanted is None or wanted.profile_type is ProfileType.UNCONFINED:
        return None
    bounding = container_capabilities(security, host).bounding
    if wanted.profile_type is ProfileType.RUNTIME_DEFAULT:
        return runtime_default(bounding)
    ref = wanted.localhost_ref.removeprefix("localhost/")
    return load_localhost(ref, host.seccomp_directory, bounding)


def _apparmor(security: ContainerSecurity, host: Host, subject: str) -> str:
    wanted = security.apparmor
    kind = wanted.profile_type if wanted is not None else ProfileType.RUNTIME_DEFAULT
    if wanted is not None and kind is ProfileType.LOCALHOST:
        if not host.apparmor:
            raise FailedPrecondition(
                f"{subject}: apparmor: profile {wanted.localhost_ref!r} asked for, but this host has no AppArmor"
            )
        name = wanted.localhost_ref.removeprefix("localhost/")
        if not name:
            raise InvalidArgument(f"{subject}: apparmor.localhost_ref: empty")
        return name
    if not host.apparmor or kind is ProfileType.UNCONFINED or security.privileged:
        return ""
    return host.apparmor_default


def _selinux(security: ContainerSecurity, host: Host, subject: str) -> str:
    wanted = security.selinux
    if wanted is None or not (wanted.user or wanted.role or wanted.type or wanted.level):
        return ""
    if not host.selinux:
        raise FailedPrecondition(f"{subject}: selinux_options given, but this host has no SELinux")
    if security.privileged:
        return ""
    if not (wanted.user and wanted.role and wanted.type and wanted.level):
        raise Unimplemented(f"{subject}: selinux_options: all of user, role, type and level are needed")
    return f"{wanted.user}:{wanted.role}:{wanted.type}:{wanted.level}"


@lru_cache(maxsize=256)
def parse_signal(text: str) -> int | None:
    """Return the number of ``SIGTERM``, ``TERM``, ``15``, ``SIGRTMIN+3``; None when it is none."""
    word = text.strip().upper()
    if word.isascii() and word.isdigit():
        number = int(word[:4])
        return number if 0 < number <= signals.SIGRTMAX else None
    word = word.removeprefix("SIG")
    for base, value, sign in (("RTMIN", signals.SIGRTMIN, 1), ("RTMAX", signals.SIGRTMAX, -1)):
        if word.startswith(base):
            rest = word[len(base) :]
            if not rest:
                return int(value)
            if rest[0] != "+-"[sign < 0] or not rest[1:].isascii() or not rest[1:].isdigit():
                return None
            number = value + sign * int(rest[1:4])
            return number if signals.SIGRTMIN <= number <= signals.SIGRTMAX else None
    found = getattr(signals, "SIG" + word, None)
    return int(found) if isinstance(found, signals.Signals) else None


def stop_signal(config: ContainerConfig, image: ImageDefaults) -> int:
    """Return what StopContainer sends first: the container's, else the image's, else SIGTERM."""
    if config.stop_signal:
        return config.stop_signal
    return (parse_signal(image.stop_signal) if image.stop_signal else None) or int(signals.SIGTERM)


# ---- namespaces

_Namespaces = tuple[tuple[oci.Namespace, ...], dict[str, Whereabouts], frozenset[str]]
_NEW_MOUNT: Final = oci.Namespace(type="mount")
_NEW_PID: Final = oci.Namespace(type="pid")
_NEW_CGROUP: Final = oci.Namespace(type="cgroup")


def _namespaces(
    security: ContainerSecurity, sandbox: SandboxConfig, host: Host, *, subject: str, pids: tuple[int, int, int]
) -> _Namespaces:
    """The pod decides about network, IPC and UTS; the container about PID, within what the pod allows."""
    options, pod_options = security.namespaces, sandbox.security.namespaces
    if options.userns is not None and options.userns.mode is not NamespaceMode.NODE:
        raise Unimplemented(f"{subject}: namespace_options.userns_options: user namespaces are not implemented")
    monitor, init, target = pids
    listed = [_NEW_MOUNT]
    where: dict[str, Whereabouts] = {}
    if pod_options.network is not NamespaceMode.NODE:
        # A pod with its own network has its own host name; on the host's network it has the host's.
        for kind, file in (("network", "net"), ("uts", "uts")):
            listed.append(oci.Namespace(type=kind, path=f"/proc/{monitor}/ns/{file}"))
            where[kind] = INHERITED
    if pod_options.ipc is not NamespaceMode.NODE:
        listed.append(oci.Namespace(type="ipc", path=f"/proc/{monitor}/ns/ipc"))
        where["ipc"] = INHERITED
    mode = options.pid
    if mode is NamespaceMode.NODE and pod_options.pid is not NamespaceMode.NODE:
        raise InvalidArgument(
            f"{subject}: namespace_options.pid: NODE, but its sandbox is not in the node's PID namespace"
        )
    if mode is NamespaceMode.POD:
        mode = pod_options.pid
    if mode is NamespaceMode.CONTAINER:
        listed.append(_NEW_PID)
    elif mode is NamespaceMode.POD:
        listed.append(oci.Namespace(type="pid", path=f"/proc/{init}/ns/pid"))
        where["pid"] = OF_POD_INIT
    elif mode is NamespaceMode.TARGET:
        if not options.target_id:
            raise InvalidArgument(f"{subject}: namespace_options.target_id: empty")
        listed.append(oci.Namespace(type="pid", path=f"/proc/{target}/ns/pid"))
        where["pid"] = OfContainer(options.target_id)
    if host.cgroup_v2 and not security.privileged:
        # Not on v1, as runc and containerd have it: there /sys/fs/cgroup is built from the container's own directories.
        listed.append(_NEW_CGROUP)
    return tuple(listed), where, frozenset(kind for kind in ("network", "uts", "ipc") if kind in where)


# ---- mounts

_PROC: Final = oci.Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev"))
_DEV: Final = oci.Mount(
    destination="/dev",
    type="tmpfs",
    source="tmpfs",
    options=("nosuid", "strictatime", "mode=755", "size=65536k"),
)
_DEVPTS: Final = oci.Mount(
    destination="/dev/pts",
    type="devpts",
    source="devpts",
    options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
)
_MQUEUE: Final = oci.Mount(
    destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")
)
_SHM: Final = oci.Mount(
    destination=SHM_PATH,
    type="tmpfs",
    source="shm",
    options=("nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
)
_HOST_SHM: Final = oci.Mount(destination=SHM_PATH, type="bind", source=SHM_PATH, options=("rbind", "rprivate"))
_SYS: Final = oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro"))
_SYS_RW: Final = oci.Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev"))
_CGROUP: Final = oci.Mount(
    destination="/sys/fs/cgroup",
    type="cgroup",
    source="cgroup",
    options=("nosuid", "noexec", "nodev", "relatime", "ro"),
)
_CGROUP_RW: Final = oci.Mount(
    destination="/sys/fs/cgroup",
    type="cgroup",
    source="cgroup",
    options=("nosuid", "noexec", "nodev", "relatime"),
)
_DEFAULT_MOUNTS: Final = (_PROC, _DEV, _DEVPTS, _MQUEUE, _SYS, _CGROUP)
_PRIVILEGED_MOUNTS: Final = (_PROC, _DEV, _DEVPTS, _MQUEUE, _SYS_RW, _CGROUP_RW)

_PROPAGATION: Final = {
    Propagation.PRIVATE: "rprivate",
    Propagation.HOST_TO_CONTAINER: "rslave",
    Propagation.BIDIRECTIONAL: "rshared",
}
# mount_options may only take rights away, or say how access times are kept; readonly and propagation have fields of their own.
_MOUNT_OPTIONS: Final = frozenset(
    {"noexec", "nosuid", "nodev", "nosymfollow", "noatime", "nodiratime", "relatime", "strictatime"}
)


def _mounts(
    config: ContainerConfig, host: Host, files: PodFiles, *, subject: str, host_ipc: bool
) -> tuple[tuple[oci.Mount, ...], dict[str, Fd], tuple[str, ...], str]:
    """Return mounts, detached trees, host directories, and the root's propagation.

    Defaults first, then the pod's files and CRI's mounts with fewer path components before more, so that none hides another; a mount of
    CRI replaces a default on the same path, and one on /dev all defaults below it.
    """
    asked: list[tuple[str, oci.Mount]] = []
    trees: dict[str, Fd] = {}
    directories: list[str] = []
    propagation = ""
    for index, mount in enumerate(config.mounts):
        field = f"{subject}: mounts[{index}]"
        target = target_of(f"{field}.container_path", mount.container_path)
        if mount.image is not None and (mount.image.image or mount.image.image_ref):
            asked.append((target, _image_mount(field, target, mount)))
            trees[target] = Fd(f"image.{target}")
            continue
        asked.append((target, _host_mount(field, target, mount, host)))
        directories.append(mount.host_path)
        if mount.propagation is Propagation.BIDIRECTIONAL:
            propagation = "rshared"
        elif mount.propagation is Propagation.HOST_TO_CONTAINER and not propagation:
            propagation = "rslave"
    taken = {target for target, _ in asked}
    readonly = config.security.readonly_rootfs
    options = ("rbind", "rprivate", "ro") if readonly else ("rbind", "rprivate")
    for target, source in (
        ("/etc/hostname", files.hostname),
        ("/etc/hosts", files.hosts),
        ("/etc/resolv.conf", files.resolv_conf),
    ):
        if source and target not in taken:
            asked.append((target, oci.Mount(destination=target, type="bind", source=source, options=options)))
    if SHM_PATH not in taken:
        # On its own the document asks for a shm of the container; with the tree it is the pod's.
        asked.append((SHM_PATH, _HOST_SHM if host_ipc else _SHM))
        if not host_ipc:
            trees[SHM_PATH] = SHM_FD
    asked.sort(key=lambda item: item[0].count("/"))
    defaults: tuple[oci.Mount, ...] = _PRIVILEGED_MOUNTS if config.security.privileged else _DEFAULT_MOUNTS
    if taken:
        below_dev = "/dev" in taken
        defaults = tuple(
            mount
            for mount in defaults
            if mount.destination not in taken and not (below_dev and mount.destination.startswith("/dev/"))
        )
    return (*defaults, *(mount for _, mount in asked)), trees, tuple(directories), propagation


def _host_mount(field: str, target: str, mount: pod.Mount, host: Host) -> oci.Mount:
    if not mount.host_path.startswith("/"):
        raise InvalidArgument(f"{field}.host_path: {mount.host_path!r} is not an absolute path")
    if mount.uid_mappings or mount.gid_mappings:
        raise Unimplemented(f"{field}.uidMappings: id-mapped mounts are not implemented")
    options = ["rbind", _PROPAGATION[mount.propagation]]
    if mount.recursive_read_only:
        if not mount.readonly:
            raise InvalidArgument(f"{field}.recursive_read_only: conflicts with a writable mount")
        if mount.propagation is not Propagation.PRIVATE:
            raise InvalidArgument(f"{field}.recursive_read_only: needs private propagation")
        if not host.recursive_readonly:
            raise InvalidArgument(f"{field}.recursive_read_only: this kernel has no recursive read-only mounts")
        options.append("rro")
    elif mount.readonly:
        options.append("ro")
    options += _mount_options(field, mount.mount_options)
    return oci.Mount(destination=target, type="bind", source=mount.host_path, options=tuple(options))


def _image_mount(field: str, target: str, mount: pod.Mount) -> oci.Mount:
    if not mount.readonly:
        raise InvalidArgument(f"{field}.readonly: an image volume is read-only")
    if mount.host_path:
        raise InvalidArgument(f"{field}.host_path: given beside image")
    if mount.propagation is not Propagation.PRIVATE:
        raise InvalidArgument(f"{field}.propagation: an image volume is private")
    if mount.image is None:
        raise InvalidArgument(f"{field}.image: missing")
    options = ("rbind", "rprivate", "ro", *_mount_options(field, mount.mount_options))
    return oci.Mount(
        destination=target, type="bind", source=mount.image.image_ref or mount.image.image, options=options
    )


def _mount_options(field: str, options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        if option not in _MOUNT_OPTIONS:
            raise InvalidArgument(
                f"{field}.mount_options: {option!r} is not one of {', '.join(sorted(_MOUNT_OPTIONS))}"
            )
    return options


# ---- devices, resources, annotations


def _allow(kind: str, major: int | None, minor: int | None, access: str) -> oci.DeviceCgroup:
    return oci.DeviceCgroup(allow=True, type=kind, major=major, minor=minor, access=access)


DEFAULT_DEVICE_RULES: Final = (
    oci.DeviceCgroup(allow=False, access="rwm"),
    # A node may be made for any device; opening it is what the rules below decide.
    _allow("c", None, None, "m"),
    _allow("b", None, None, "m"),
    _allow("c", 1, 3, "rwm"),
    _allow("c", 1, 5, "rwm"),
    _allow("c", 1, 7, "rwm"),
    _allow("c", 1, 8, "rwm"),
    _allow("c", 1, 9, "rwm"),
    _allow("c", 5, 0, "rwm"),
    # /dev/ptmx and what it makes in /dev/pts.
    _allow("c", 5, 2, "rwm"),
    _allow("c", 136, None, "rwm"),
)


def _device_rule(config: ContainerConfig, index: int, device: oci.Device) -> oci.DeviceCgroup:
    """Permissions are those of the config's device that the node came from: its own path, or the directory it was found in."""
    access = "rwm"
    for wanted in config.devices:
        path = wanted.container_path.rstrip("/")
        if device.path == path or device.path.startswith(path + "/"):
            access = wanted.permissions or "rwm"
    if not access or set(access) - set("rwm"):
        raise InvalidArgument(f"devices[{index}].permissions: {access!r} is not made of r, w and m")
    return _allow(device.type, device.major, device.minor, access)


def _merge_devices(nodes: tuple[oci.Device, ...], asked: tuple[oci.Device, ...]) -> tuple[oci.Device, ...]:
    named = {device.path for device in asked}
    return (*(device for device in nodes if device.path not in named), *asked) if named else nodes


def _resources(
    wanted: pod.LinuxResources, host: Host, rules: tuple[oci.DeviceCgroup, ...], subject: str
) -> oci.Resources:
    if wanted.unified and not host.cgroup_v2:
        raise InvalidArgument(f"{subject}: resources.unified: this host has cgroup v1")
    return oci.Resources(
        devices=rules,
        cpu=oci_cpu(wanted),
        memory=oci_memory(wanted, host),
        # kubelet names every page size with limit 0; a host without the controller has no huge pages to limit.
        hugepage_limits=tuple(
            oci.HugepageLimit(page_size=limit.page_size, limit=limit.limit) for limit in wanted.hugepage_limits
        )
        if host.hugetlb
        else (),
        unified=wanted.unified,
    )


def oci_cpu(wanted: pod.LinuxResources) -> oci.CPU | None:
    """Return CRI's cpu fields, None when none is given; 0 means not given."""
    if not (wanted.cpu_period or wanted.cpu_quota or wanted.cpu_shares or wanted.cpuset_cpus or wanted.cpuset_mems):
        return None
    return oci.CPU(
        period=wanted.cpu_period or None,
        quota=wanted.cpu_quota or None,
        shares=wanted.cpu_shares or None,
        cpus=wanted.cpuset_cpus,
        mems=wanted.cpuset_mems,
    )


def oci_memory(wanted: pod.LinuxResources, host: Host) -> oci.Memory | None:
    """Return CRI's memory fields, None when none is given. Without a swap limit a container with a memory limit may not swap."""
    limit, swap = wanted.memory_limit or None, wanted.memory_swap_limit or None
    if limit is None and swap is None:
        return None
    return oci.Memory(limit=limit, swap=(swap if swap is not None else limit) if host.swap else None)


def _annotations(config: ContainerConfig, sandbox: SandboxConfig, sandbox_id: str) -> dict[str, str]:
    """What runtimes of other makers (kata, gVisor) read to know their place; never the labels of an image (CVE-2026-53488)."""
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": config.metadata.name,
        "io.kubernetes.cri.image-name": config.image.user_specified_image or config.image.image,
        "io.kubernetes.cri.sandbox-id": sandbox_id,
        "io.kubernetes.cri.sandbox-name": sandbox.metadata.name,
        "io.kubernetes.cri.sandbox-namespace": sandbox.metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": sandbox.metadata.uid,
    }


def image_mounts(config: ContainerConfig) -> Mapping[str, pod.Mount]:
    """Return mount point -> the config's mount of an image, for those who prepare the trees."""
    return {
        target_of("mounts.container_path", mount.container_path): mount
        for mount in config.mounts
        if mount.image is not None and (mount.image.image or mount.image.image_ref)
    }
