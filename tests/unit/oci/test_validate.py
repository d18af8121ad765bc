"""What is refused, and that the error names the property."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.oci.validate import check_sysctls, clean_target, sysctl_path, validate_spec
from orlop.specs import runtime as oci

BASE = oci.RuntimeSpec(
    oci_version="1.2.0",
    root=oci.Root(path="rootfs"),
    process=oci.Process(cwd="/", args=("sh",)),
    linux=oci.Linux(namespaces=(oci.Namespace(type="mount"),)),
)


def spec(**changes: Any) -> oci.RuntimeSpec:
    return msgspec.structs.replace(BASE, **changes)


def process(**changes: Any) -> oci.RuntimeSpec:
    return spec(process=msgspec.structs.replace(BASE.process, **changes))


def linux(*kinds: str, **changes: Any) -> oci.RuntimeSpec:
    namespaces = tuple(oci.Namespace(type=kind) for kind in ("mount", *kinds))
    return spec(linux=msgspec.structs.replace(BASE.linux, **{"namespaces": namespaces, **changes}))


def mount(**fields: Any) -> oci.RuntimeSpec:
    good = oci.Mount(destination="/good", type="tmpfs")
    return spec(mounts=(good, oci.Mount(**fields)))


def test_the_smallest_spec_is_valid() -> None:
    validate_spec(BASE)


MAP = (oci.IDMapping(container_id=0, host_id=1, size=1),)

REFUSED = [
    (spec(oci_version="2.0.0"), "ociVersion: '2.0.0' is not 1.x"),
    (spec(process=None), "process: missing"),
    (spec(root=None), "root.path: missing"),
    (spec(linux=None), "linux: missing"),
    (process(args=()), "process.args: empty"),
    (process(args=("",)), r"process.args\[0\]: empty"),
    (process(args=("a", "b\0")), r"process.args\[1\]: holds a NUL"),
    (process(env=("A=1", "B")), r"process.env\[1\]: 'B' is not NAME=value"),
    (process(env=("=x",)), r"process.env\[0\]: '' is not NAME=value"),
    (process(env=("A\nB=x",)), r"process.env\[0\]: .* is not NAME=value"),
    (process(cwd="work"), "process.cwd: 'work' is not an absolute path"),
    (process(cwd="/a\nb"), "process.cwd: .*line break"),
    (process(capabilities=oci.Capabilities(bounding=("CAP_X",))), "process.capabilities.bounding: unknown capability 'CAP_X'"),
    (process(capabilities=oci.Capabilities(effective=("CAP_KILL",))), "process.capabilities.effective: CAP_KILL not in permitted"),
    (process(rlimits=(oci.Rlimit(type="RLIMIT_X"),)), r"process.rlimits\[0\].type: unknown limit"),
    (process(rlimits=(oci.Rlimit(type="RLIMIT_CPU"),) * 2), r"process.rlimits\[1\].type: RLIMIT_CPU is given twice"),
    (process(rlimits=(oci.Rlimit(type="RLIMIT_CPU", soft=2, hard=1),)), r"process.rlimits\[0\].soft: 2 above hard limit 1"),
    (process(rlimits=(oci.Rlimit(type="RLIMIT_CPU", hard=2**64),)), r"process.rlimits\[0\]"),
    (process(oom_score_adj=1001), "process.oomScoreAdj: 1001"),
    (process(user=oci.User(umask=0o10000)), "process.user.umask"),
    (process(io_priority=oci.IOPriority(class_="X")), "process.ioPriority.class: unknown class 'X'"),
    (process(io_priority=oci.IOPriority(class_="IOPRIO_CLASS_BE", priority=8)), "process.ioPriority.priority: 8"),
    (process(scheduler=oci.Scheduler(policy="X")), "process.scheduler.policy: unknown policy 'X'"),
    (process(scheduler=oci.Scheduler(policy="SCHED_OTHER", nice=20)), "process.scheduler.nice: 20"),
    (process(scheduler=oci.Scheduler(policy="SCHED_OTHER", priority=1)), "process.scheduler.priority: only for"),
    (process(scheduler=oci.Scheduler(policy="SCHED_FIFO", runtime=1)), "process.scheduler.runtime"),
    (process(scheduler=oci.Scheduler(policy="SCHED_FIFO", flags=("X",))), "process.scheduler.flags: unknown flag 'X'"),
    (mount(destination="a", type="tmpfs"), r"mounts\[1\].destination: 'a' is not an absolute path"),
    (mount(destination="/a/../b", type="tmpfs"), r"mounts\[1\].destination: '/a/../b' holds '..'"),
    (mount(destination="/a\0", type="tmpfs"), r"mounts\[1\].destination: .*NUL"),
    (mount(destination="/" + "a" * 5000, type="tmpfs"), r"mounts\[1\].destination: longer than"),
    (mount(destination="/", type="tmpfs"), r"mounts\[1\].destination: '/' would cover"),
    (mount(destination="/./", type="tmpfs"), r"mounts\[1\].destination: '/' would cover"),
    (mount(destination="/proc", type="tmpfs"), r"mounts\[1\].destination: only proc"),
    (mount(destination="//proc/", type="bind", source="/srv"), r"mounts\[1\].destination: only proc"),
    (mount(destination="/proc/sys", type="bind", source="/srv"), r"mounts\[1\].destination: /proc/sys is inside /proc"),
    (mount(destination="/proc/self/attr", type="tmpfs"), r"mounts\[1\].destination: /proc/self/attr is inside /proc"),
    (mount(destination="/a", type="bind"), r"mounts\[1\].source: missing"),
    (mount(destination="/a", type="bind", source="/b\n"), r"mounts\[1\].source: .*line break"),
    (mount(destination="/a", type="bind", source="/b", options=("size=1",)), r"mounts\[1\].options: 'size=1' is not an option of a bind"),
    (mount(destination="/a"), r"mounts\[1\].type: missing"),
    (mount(destination="/a", type="a/b"), r"mounts\[1\].type: 'a/b' is not a filesystem"),
    (mount(destination="/a", type="tmpfs", uid_mappings=MAP, gid_mappings=MAP), r"mounts\[1\].uidMappings: only bind"),
    (mount(destination="/a", type="bind", source="/b", uid_mappings=MAP), r"mounts\[1\].uidMappings: .* go together"),
    (linux("mount"), r"linux.namespaces\[1\].type: mount is given twice"),
    (linux("x"), r"linux.namespaces\[1\].type: unknown namespace 'x'"),
    (linux(namespaces=()), "linux.namespaces: a mount namespace of its own"),
    (linux(namespaces=(oci.Namespace(type="mount", path="/x"),)), "linux.namespaces: a mount namespace of its own"),
    (linux(namespaces=(oci.Namespace(type="mount"), oci.Namespace(type="pid", path="x"))), r"linux.namespaces\[1\].path: 'x'"),
    (spec(hostname="h"), "hostname: needs a UTS namespace"),
    (msgspec.structs.replace(linux("uts"), hostname="h" * 65), "hostname: longer than 64"),
    (msgspec.structs.replace(linux("uts"), domainname="a\nb"), "domainname: .*line break"),
    (linux("user"), "linux.uidMappings: a new user namespace needs"),
    (linux(uid_mappings=MAP), "linux.uidMappings: need a new user namespace"),
    (linux("user", uid_mappings=(oci.IDMapping(),), gid_mappings=MAP), r"linux.uidMappings\[0\].size: 0"),
    (linux("user", uid_mappings=MAP, gid_mappings=(oci.IDMapping(host_id=2**32 - 2, size=5),)), r"linux.gidMappings\[0\].size: reaches"),
    (linux(devices=(oci.Device(path="dev/x", type="c"),)), r"linux.devices\[0\].path: 'dev/x' is not an absolute"),
    (linux(devices=(oci.Device(path="/dev/x", type="x"),)), r"linux.devices\[0\].type: 'x' is not"),
    (linux(devices=(oci.Device(path="/dev/", type="c"),)), r"linux.devices\[0\].path: /dev is a directory"),
    (linux(devices=(oci.Device(path="/dev/x", type="c", major=-1),)), r"linux.devices\[0\].major: -1:0"),
    (linux(masked_paths=("proc",)), "linux.maskedPaths: 'proc' is not an absolute"),
    (linux(readonly_paths=("//",)), "linux.readonlyPaths: '/' is the container's root"),
    (linux(rootfs_propagation="x"), "linux.rootfsPropagation: unknown propagation 'x'"),
    (linux(personality=oci.Personality(domain="BSD")), "linux.personality.domain: 'BSD'"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_refused_with_the_name_of_the_property(bad: oci.RuntimeSpec, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{words}"):
        validate_spec(bad)


@pytest.mark.parametrize(
    "good",
    [
        mount(destination="/proc", type="proc"),
        mount(destination="/proc", type="bind", source="/proc", options=("rbind",)),
        mount(destination="/proc/meminfo", type="bind", source="/var/lib/lxcfs/meminfo"),
        mount(destination="/procfs", type="tmpfs"),
        mount(destination="/a", options=("remount", "ro")),
        process(env=("CERT=-----\nlines\n", "EMPTY=", "A=b=c")),
        process(capabilities=oci.Capabilities(permitted=("CAP_KILL",), ambient=("CAP_KILL",))),
    ],
)
def test_accepted(good: oci.RuntimeSpec) -> None:
    validate_spec(good)


@pytest.mark.parametrize(
    "unbuilt",
    [
        spec(hooks=oci.Hooks(poststop=(oci.Hook(path="/x"),))),
        linux("time", time_offsets={"monotonic": oci.TimeOffset(secs=1)}),
        linux(net_devices={"eth0": oci.NetDevice()}),
        linux(intel_rdt=oci.IntelRdt(clos_id="a")),
        linux(memory_policy=oci.MemoryPolicy(mode="MPOL_BIND")),
    ],
)
def test_what_is_not_built_says_so(unbuilt: oci.RuntimeSpec) -> None:
    with pytest.raises(Unimplemented, match="not implemented"):
        validate_spec(unbuilt)
    validate_spec(spec(hooks=oci.Hooks()))


def test_targets_are_cleaned() -> None:
    assert clean_target("//a/./b/") == "/a/b"
    assert clean_target("/..a/b..") == "/..a/b.."


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
    ],
)
def test_sysctls_are_spelled_in_two_ways(key: str, path: str) -> None:
    assert sysctl_path(key) == path


@pytest.mark.parametrize(
    "key",
    [
        "",
        "net",
        "net..x",
        "../net/x",
        "net/../kernel/core_pattern",
        "/net/x",
        "net.x\n",
        "net.a+b",
        "net.a=b",
        "net. x",
    ],
)
def test_what_is_no_sysctl(key: str) -> None:
    with pytest.raises(ValueError, match="is not a sysctl"):
        sysctl_path(key)


@pytest.mark.parametrize(
    ("sysctls", "own", "words"),
    [
        ({"kernel.core_pattern": "|/x"}, {"network", "ipc", "uts"}, "is not in a namespace"),
        ({"vm.swappiness": "1"}, {"network", "ipc", "uts"}, "is not in a namespace"),
        ({"net.core.somaxconn": "1"}, {"ipc"}, "needs an own network namespace"),
        ({"fs.mqueue.msg_max": "1"}, {"network"}, "needs an own ipc namespace"),
        ({"user.max_user_namespaces": "1"}, {"network"}, "needs an own user namespace"),
        ({"kernel.hostname": "h"}, {"uts"}, "use hostname"),
        ({"net.a.b": "1\n2"}, {"network"}, "line break"),
        ({"net.a.b": "1", "net/a/b": "2"}, {"network"}, "given twice"),
        ({"net.a+kernel.core_pattern": "1"}, {"network"}, "is not a sysctl"),
    ],
)
def test_sysctls_of_the_host_are_refused(sysctls: dict[str, str], own: set[str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^linux.sysctl.*{words}"):
        check_sysctls("linux.sysctl", sysctls, own)


def test_sysctls_of_own_namespaces_pass() -> None:
    given = {"kernel.shm_rmid_forced": "1", "net.ipv4.ping_group_range": "0 1", "kernel.domainname": "d"}
    assert check_sysctls("x", given, {"ipc", "network", "uts"}) == {
        "kernel/shm_rmid_forced": "1",
        "net/ipv4/ping_group_range": "0 1",
        "kernel/domainname": "d",
    }
