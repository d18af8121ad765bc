"""The containers, execs and pods whose plans are kept as text in plans/."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from orlop.oci.compile import INHERITED, CgroupBind, Facts, compile_container, compile_exec, compile_pod
from orlop.oci.kernelnames import CAPABILITIES
from orlop.oci.ops import Fd, Plan
from orlop.security.profiles import Profile, profile_of
from orlop.services.containers.spec import BuiltSpec, build_spec
from orlop.services.containers.spec_inputs import Host, ImageDefaults, PodFiles
from orlop.services.containers.spec_process import build_exec_process
from orlop.services.containers.user import ResolvedUser
from orlop.specs import pod
from orlop.specs import runtime as oci

ID = "c" * 64
NULL_DEVICE = oci.Device(path="/dev/fuse", type="c", major=10, minor=229, file_mode=0o660, uid=0, gid=44)
HOST_V1 = Host(capabilities=CAPABILITIES, hostname="node", cgroup_v2=False, devices=(NULL_DEVICE,))
HOST_V2 = msgspec.structs.replace(HOST_V1, cgroup_v2=True)
IMAGE = ImageDefaults(entrypoint=("/bin/app",), cmd=("--serve",), env=("PATH=/bin", "MODE=image"), working_dir="/srv")
FILES = PodFiles(hosts="/run/pod/hosts", resolv_conf="/run/pod/resolv.conf", hostname="/run/pod/hostname")
# Masked and read-only as kubelet says them for procMount: Default.
MASKED = ("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware")
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
OWN_PID = pod.NamespaceOptions(pid=pod.NamespaceMode.CONTAINER)
# Not a real filter: the text of a plan must not depend on the version of libseccomp.
FILTER = bytes(range(8)) * 4
PROFILE = profile_of(oci.Seccomp(default_action="SCMP_ACT_ERRNO"))


def config(**changes: object) -> pod.ContainerConfig:
    base = pod.ContainerConfig(
        metadata=pod.ContainerMetadata(name="app"),
        image=pod.ImageSpec(image="example/app"),
        envs=(pod.KeyValue(key="TOKEN", value=b"secret"),),
        mounts=(
            pod.Mount(container_path="/var/lib/data", host_path="/srv/data"),
            pod.Mount(container_path="/etc/hosts", host_path="/srv/hosts", readonly=True),
        ),
        resources=pod.LinuxResources(cpu_shares=2, memory_limit=1 << 27, oom_score_adj=996),
        security=pod.ContainerSecurity(namespaces=OWN_PID, masked_paths=MASKED, readonly_paths=READONLY),
    )
    return msgspec.structs.replace(base, **changes)


def sandbox(security: pod.SandboxSecurity | None = None) -> pod.SandboxConfig:
    return pod.SandboxConfig(
        metadata=pod.SandboxMetadata(name="web", uid="u", namespace="default"),
        hostname="web",
        security=security or pod.SandboxSecurity(namespaces=OWN_PID),
    )


def built(
    config: pod.ContainerConfig,
    sandbox: pod.SandboxConfig,
    host: Host = HOST_V2,
    user: ResolvedUser | None = None,
    profile: Profile | None = None,
) -> BuiltSpec:
    return build_spec(
        config,
        sandbox,
        IMAGE,
        user=user or ResolvedUser(),
        host=host,
        files=FILES,
        sandbox_id="s" * 64,
        monitor_pid=100,
        init_pid=101,
        target_pid=102,
        profile=profile,
    )


def facts_v2(spec: BuiltSpec, *, filtered: bool = False) -> Facts:
    return msgspec.structs.replace(
        spec.facts(ID),
        cgroup_clone=Fd("cgroup"),
        seccomp_filter=FILTER if filtered else b"",
        seccomp_flags=4 if filtered else 0,
    )


def facts_v1(spec: BuiltSpec, *, filtered: bool = False) -> Facts:
    names = ("cpu,cpuacct", "memory", "pids", "systemd")
    return msgspec.structs.replace(
        facts_v2(spec, filtered=filtered),
        cgroup_v2=False,
        cgroup_clone=None,
        cgroup_tasks=tuple(Fd(f"cgroup.tasks.{name}") for name in names),
        cgroup_binds=tuple(CgroupBind(name=name, source=f"/sys/fs/cgroup/{name}/pod/{ID[:8]}") for name in names),
        clamp_limits=True,
    )


def default_v2() -> Plan:
    spec = built(config(), sandbox(), profile=PROFILE)
    return compile_container(spec.spec, facts_v2(spec, filtered=True))


def default_v1() -> Plan:
    spec = built(config(), sandbox(), HOST_V1, profile=PROFILE)
    return compile_container(spec.spec, facts_v1(spec, filtered=True))


def restricted() -> Plan:
    """What the restricted pod security standard asks for: a user, no new privileges, no capabilities, a read-only root, a profile."""
    security = pod.ContainerSecurity(
        namespaces=OWN_PID,
        masked_paths=MASKED,
        readonly_paths=READONLY,
        readonly_rootfs=True,
        no_new_privs=True,
        capabilities=pod.Capabilities(drop=("ALL",)),
    )
    spec = built(
        config(security=security),
        sandbox(),
        user=ResolvedUser(uid=1000, gid=1000, groups=(1000, 2000), home="/home/app", name="app"),
        profile=PROFILE,
    )
    return compile_container(spec.spec, facts_v2(spec, filtered=True))


def privileged_v1() -> Plan:
    everything = pod.NamespaceOptions(
        network=pod.NamespaceMode.NODE, pid=pod.NamespaceMode.NODE, ipc=pod.NamespaceMode.NODE
    )
    security = pod.ContainerSecurity(privileged=True, namespaces=everything, masked_paths=MASKED)
    mounts = (
        pod.Mount(container_path="/host", host_path="/", propagation=pod.Propagation.BIDIRECTIONAL),
        pod.Mount(
            container_path="/var/lib/kubelet",
            host_path="/var/lib/kubelet",
            propagation=pod.Propagation.HOST_TO_CONTAINER,
        ),
    )
    spec = built(
        config(security=security, mounts=mounts),
        sandbox(pod.SandboxSecurity(privileged=True, namespaces=everything)),
        HOST_V1,
    )
    return compile_container(spec.spec, facts_v1(spec))


def terminal_shared_pid() -> Plan:
    security = pod.ContainerSecurity(capabilities=pod.Capabilities(add=("NET_ADMIN",), drop=("MKNOD",)))
    spec = built(config(tty=True, stdin=True, security=security), sandbox(pod.SandboxSecurity()))
    return compile_container(spec.spec, facts_v2(spec))


def target_pid_host_network() -> Plan:
    security = pod.ContainerSecurity(
        namespaces=pod.NamespaceOptions(pid=pod.NamespaceMode.TARGET, target_id="t" * 64),
        capabilities=pod.Capabilities(add_ambient=("NET_BIND_SERVICE",)),
    )
    host_network = pod.SandboxSecurity(namespaces=pod.NamespaceOptions(network=pod.NamespaceMode.NODE))
    spec = built(config(security=security), sandbox(host_network), user=ResolvedUser(uid=33, gid=33, groups=(33,)))
    return compile_container(spec.spec, facts_v2(spec))


def mounts_of_all_kinds() -> Plan:
    mounts = (
        pod.Mount(container_path="/a/b/c", host_path="/srv/deep", readonly=True, recursive_read_only=True),
        pod.Mount(container_path="/a", host_path="/srv/shallow", mount_options=("noexec", "nosuid", "nodev")),
        pod.Mount(container_path="/model", image=pod.ImageSpec(image="example/model"), readonly=True),
        pod.Mount(container_path="/dev/shm", host_path="/srv/shm"),
    )
    spec = built(config(mounts=mounts), sandbox())
    return compile_container(spec.spec, facts_v2(spec))


def everything_of_the_spec() -> Plan:
    """A bundle as no pod has it: own namespaces of every kind, every property that an op carries."""
    caps = ("CAP_NET_BIND_SERVICE", "CAP_SYS_NICE")
    spec = oci.RuntimeSpec(
        oci_version="1.2.0",
        hostname="all",
        domainname="example.org",
        root=oci.Root(path="/bundle/rootfs", readonly=True),
        process=oci.Process(
            cwd="/work",
            args=("prog", "one word", "\x1b[31m"),
            env=("PATH=/bin", "PASSWORD=x"),
            terminal=True,
            console_size=oci.Box(height=24, width=80),
            user=oci.User(uid=7, gid=8, umask=0o077, additional_gids=(8, 9)),
            capabilities=oci.Capabilities(
                bounding=caps, effective=caps, permitted=caps, inheritable=caps, ambient=caps[:1]
            ),
            rlimits=(
                oci.Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=4096),
                oci.Rlimit(type="RLIMIT_CORE", soft=0, hard=2**64 - 1),
            ),
            oom_score_adj=-10,
            apparmor_profile="docker-default",
            scheduler=oci.Scheduler(policy="SCHED_BATCH", nice=5, flags=("SCHED_FLAG_RESET_ON_FORK",)),
            io_priority=oci.IOPriority(class_="IOPRIO_CLASS_BE", priority=4),
        ),
        mounts=(
            oci.Mount(destination="/proc", type="proc", source="proc"),
            oci.Mount(destination="/dev", type="tmpfs", source="tmpfs", options=("ro", "nosuid", "mode=755")),
            oci.Mount(destination="/dev/pts", type="devpts", options=("newinstance",)),
            oci.Mount(destination="/etc", type="tmpfs", options=("tmpcopyup", "rro", "noatime")),
            oci.Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=("ro", "nosuid")),
            oci.Mount(destination="/x", type="none", source="/srv/x", options=("bind", "rro", "nodev", "rslave")),
            oci.Mount(destination="/y", type="bind", source="/srv/y", options=("rbind", "rw", "relatime", "idmap")),
            oci.Mount(destination="/y/sub", options=("remount", "bind", "ro")),
        ),
        linux=oci.Linux(
            namespaces=(
                *(oci.Namespace(type=kind) for kind in ("user", "mount", "pid", "ipc", "uts", "cgroup", "time")),
                oci.Namespace(type="network", path="/run/netns/blue"),
            ),
            uid_mappings=(oci.IDMapping(container_id=0, host_id=100000, size=65536),),
            gid_mappings=(oci.IDMapping(container_id=0, host_id=100000, size=65536),),
            sysctl={"net.ipv4.conf.eth0/1.forwarding": "1", "kernel/shmmax": "65536"},
            devices=(
                oci.Device(path="/dev/net/tun", type="c", major=10, minor=200),
                oci.Device(path="/dev/pipe", type="p"),
                oci.Device(path="/dev/null", type="c", major=1, minor=3),
            ),
            masked_paths=("/proc/kcore",),
            readonly_paths=("/proc/sys",),
            rootfs_propagation="shared",
            personality=oci.Personality(domain="LINUX32"),
        ),
    )
    return compile_container(spec, Facts(container_id="bundle", rootfs=None, cgroup_clone=Fd("cgroup")))


def _exec(spec: BuiltSpec, facts: Facts, *, tty: bool) -> Plan:
    return compile_exec(build_exec_process(spec.spec, ("ls", "-l"), tty=tty), spec.spec, facts)


def exec_v1() -> Plan:
    spec = built(config(), sandbox(), HOST_V1, profile=PROFILE)
    return _exec(spec, facts_v1(spec, filtered=True), tty=False)


def exec_terminal_v2() -> Plan:
    spec = built(config(), sandbox())
    return _exec(spec, facts_v2(spec), tty=True)


def exec_in_own_namespaces() -> Plan:
    spec = oci.RuntimeSpec(
        oci_version="1.2.0",
        linux=oci.Linux(
            namespaces=tuple(oci.Namespace(type=kind) for kind in ("mount", "pid", "ipc"))
            + (oci.Namespace(type="uts", path="/a"), oci.Namespace(type="network", path="/b"))
        ),
    )
    facts = Facts(container_id="bundle", namespaces={"uts": INHERITED}, monitor_namespaces=frozenset({"uts"}))
    return compile_exec(oci.Process(cwd="/", args=("sh",)), spec, facts)


def pod_default() -> Plan:
    return compile_pod(
        network=True, ipc=True, uts=True, hostname="web", sysctls={"net.ipv4.ip_unprivileged_port_start": "0"}
    )


def pod_host_network_shared_pid() -> Plan:
    return compile_pod(network=False, ipc=True, uts=False, shared_pid=True)


CASES: dict[str, Callable[[], Plan]] = {
    case.__name__: case
    for case in (
        default_v2,
        default_v1,
        restricted,
        privileged_v1,
        terminal_shared_pid,
        target_pid_host_network,
        mounts_of_all_kinds,
        everything_of_the_spec,
        exec_v1,
        exec_terminal_v2,
        exec_in_own_namespaces,
        pod_default,
        pod_host_network_shared_pid,
    )
}
