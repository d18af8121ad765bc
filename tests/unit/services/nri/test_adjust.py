"""Adjustments on a runtime spec: what each does, in which order, and what is refused. And what plugins are shown of the result."""

from __future__ import annotations

import pytest

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.metadata.pods import ContainerRow
from orlop.oci.compile import INHERITED, OF_POD_INIT
from orlop.oci.ops import Fd
from orlop.services.containers.spec import BuiltSpec
from orlop.services.containers.spec_inputs import Host
from orlop.services.nri.adjust import adjust_spec
from orlop.services.nri.messages import container_message
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.nri_gen import nri_pb2 as nri

HOST = Host(capabilities=())
BUILT = BuiltSpec(
    spec=oci.RuntimeSpec(
        oci_version="1.3.0",
        process=oci.Process(
            cwd="/",
            args=("sh",),
            env=("PATH=/bin", "RAW=\udcff", "A=1"),
            rlimits=(oci.Rlimit(type="RLIMIT_CORE", soft=1, hard=1),),
        ),
        mounts=(
            oci.Mount(destination="/proc", type="proc"),
            oci.Mount(destination="/dev/shm", type="tmpfs"),  # noqa: S108
            oci.Mount(destination="/data/deep", type="bind", source="/x"),
        ),
        annotations={"old": "1"},
        linux=oci.Linux(
            resources=oci.Resources(devices=(oci.DeviceCgroup(allow=False, access="rwm"),)),
            namespaces=(
                oci.Namespace(type="mount"),
                oci.Namespace(type="network", path="/n"),
                oci.Namespace(type="pid", path="/p"),
            ),
            devices=(oci.Device(path="/dev/a", type="c", major=1, minor=1),),
            sysctl={"kernel.msgmax": "1"},
        ),
    ),
    namespaces={"network": INHERITED, "pid": OF_POD_INIT},
    monitor_namespaces=frozenset({"network"}),
    trees={"/dev/shm": Fd("pod.shm")},  # noqa: S108
    host_directories=(),
    stop_signal=15,
)


def adjusted(host: Host = HOST, **adjust: object) -> BuiltSpec:
    return adjust_spec(BUILT, nri.ContainerAdjustment(**adjust), pod.LinuxResources(), host, "c").built


def linux(**fields: object) -> oci.Linux:
    made = adjusted(linux=nri.LinuxContainerAdjustment(**fields)).spec.linux
    assert made is not None
    return made


def test_nothing_changes_nothing():
    assert adjusted() == BUILT


def test_environment_keeps_its_order_and_bytes_that_are_no_text():
    env = [nri.KeyValue(key="NEW", value="2"), nri.KeyValue(key="PATH", value="/x"), nri.KeyValue(key="-A")]
    process = adjusted(env=env).spec.process
    assert process is not None
    assert process.env == ("PATH=/x", "RAW=\udcff", "NEW=2")


@pytest.mark.parametrize("key", ["", "A=B", "N\0"])
def test_a_name_that_is_none_is_refused(key):
    with pytest.raises(InvalidArgument, match="env"):
        adjusted(env=[nri.KeyValue(key=key)])


def test_a_limit_of_the_same_kind_is_replaced():
    process = adjusted(rlimits=[nri.POSIXRlimit(type="RLIMIT_CORE", soft=5, hard=6)]).spec.process
    assert process is not None
    assert process.rlimits == (oci.Rlimit(type="RLIMIT_CORE", soft=5, hard=6),)


def test_mounts_lie_after_what_they_lie_in():
    built = adjusted(mounts=[nri.Mount(destination="/data", type="bind", source="/y", options=["bind", "relabel"])])
    assert [mount.destination for mount in built.spec.mounts] == ["/proc", "/data", "/dev/shm", "/data/deep"]
    assert built.spec.mounts[1].options == ("bind",), "without SELinux there is nothing to relabel"
    with pytest.raises(Unimplemented, match="relabel"):
        adjusted(Host(capabilities=(), selinux=True), mounts=[nri.Mount(destination="/d", options=["bind", "relabel"])])


def test_a_mount_in_place_of_the_pods_shm_is_not_the_pods_shm():
    built = adjusted(mounts=[nri.Mount(destination="/dev/shm", type="tmpfs", source="shm")])
    assert built.trees == {}
    assert adjusted(mounts=[nri.Mount(destination="-/dev/shm")]).trees == {}
    assert "/dev/shm" not in {m.destination for m in adjusted(mounts=[nri.Mount(destination="-/dev/shm")]).spec.mounts}


def test_a_shared_mount_makes_the_root_listen():
    def root(*options: str) -> str:
        made = adjusted(mounts=[nri.Mount(destination="/m", type="bind", source="/", options=options)]).spec.linux
        return made.rootfs_propagation if made is not None else ""

    assert (root("rbind"), root("rbind", "rslave"), root("rbind", "rshared")) == ("", "rslave", "rshared")


def test_a_device_comes_with_the_right_to_use_it():
    made = linux(devices=[nri.LinuxDevice(path="-/dev/a"), nri.LinuxDevice(path="/dev/b", type="b", major=8, minor=1)])
    assert [device.path for device in made.devices] == ["/dev/b"]
    assert made.resources is not None
    assert made.resources.devices[-1] == oci.DeviceCgroup(allow=True, type="b", major=8, minor=1, access="rwm")


def test_own_pid_namespace_instead_of_the_pods():
    built = adjusted(linux=nri.LinuxContainerAdjustment(namespaces=[nri.LinuxNamespace(type="pid")]))
    assert built.spec.linux is not None
    assert oci.Namespace(type="pid") in built.spec.linux.namespaces
    assert built.namespaces == {"network": INHERITED}
    kinds = {each.type for each in linux(namespaces=[nri.LinuxNamespace(type="-pid")]).namespaces}
    assert kinds == {"mount", "network"}


@pytest.mark.parametrize("kind", ["network", "-network", "ipc", "user", "mount"])
def test_namespaces_of_the_pod_stay(kind):
    with pytest.raises(Unimplemented, match="only pid and cgroup"):
        linux(namespaces=[nri.LinuxNamespace(type=kind)])
    with pytest.raises(Unimplemented, match="cannot be joined"):
        linux(namespaces=[nri.LinuxNamespace(type="pid", path="/proc/1/ns/pid")])


def test_maps_removals_first():
    assert linux(sysctl={"-kernel.msgmax": "", "kernel.sem": "2"}).sysctl == {"kernel.sem": "2"}
    assert adjusted(annotations={"-old": "", "old": "2"}).spec.annotations == {"old": "2"}


def test_a_class_is_a_clos_and_can_be_taken_away():
    gold = nri.LinuxResources(rdt_class=nri.OptionalString(value="gold"))
    assert linux(resources=gold).intel_rdt == oci.IntelRdt(clos_id="gold")
    assert linux(resources=gold, rdt=nri.LinuxRdt(remove=True)).intel_rdt == oci.IntelRdt(clos_id="gold")
    assert linux(rdt=nri.LinuxRdt(remove=True)).intel_rdt is None


def test_the_record_of_limits_follows():
    adjust = nri.ContainerAdjustment(
        linux=nri.LinuxContainerAdjustment(
            oom_score_adj=nri.OptionalInt(value=-5),
            resources=nri.LinuxResources(cpu=nri.LinuxCPU(shares=nri.OptionalUInt64(value=9))),
        )
    )
    record = adjust_spec(BUILT, adjust, pod.LinuxResources(memory_limit=7), HOST, "c").resources
    assert record == pod.LinuxResources(cpu_shares=9, oom_score_adj=-5, memory_limit=7)


def test_what_was_adjusted_is_what_the_next_one_is_shown():
    """Every field goes into the spec and comes out of it again."""
    adjust = nri.ContainerAdjustment(
        args=["run"],
        hooks=nri.Hooks(poststop=[nri.Hook(path="/h", args=["h"], timeout=nri.OptionalInt(value=3))]),
        linux=nri.LinuxContainerAdjustment(
            cgroups_path="/p/c",
            oom_score_adj=nri.OptionalInt(value=4),
            io_priority=nri.LinuxIOPriority(**{"class": nri.IOPRIO_CLASS_IDLE}, priority=1),
            scheduler=nri.LinuxScheduler(
                policy=nri.SCHED_FIFO, priority=3, flags=[nri.SCHED_FLAG_RESET_ON_FORK], runtime=1
            ),
            seccomp_policy=nri.LinuxSeccomp(
                default_action="SCMP_ACT_ERRNO",
                default_errno=nri.OptionalUInt32(value=1),
                architectures=["SCMP_ARCH_X86_64"],
                syscalls=[
                    nri.LinuxSyscall(
                        names=["read"],
                        action="SCMP_ACT_ALLOW",
                        args=[nri.LinuxSeccompArg(index=1, value=2, op="SCMP_CMP_EQ")],
                    )
                ],
            ),
            sysctl={"kernel.sem": "2"},
            net_devices={"eth1": nri.LinuxNetDevice(name="net1")},
            rdt=nri.LinuxRdt(clos_id=nri.OptionalString(value="gold")),
            devices=[
                nri.LinuxDevice(path="/dev/b", type="c", major=1, minor=3, file_mode=nri.OptionalFileMode(value=0o600))
            ],
        ),
    )
    spec = adjust_spec(BUILT, adjust, pod.LinuxResources(), HOST, "c").built.spec
    row = ContainerRow(
        id="c",
        name="n",
        sandbox_id="s",
        reserved_at=1,
        config=pod.ContainerConfig(metadata=pod.ContainerMetadata(name="web")),
    )
    shown = container_message(row, spec)
    assert list(shown.args) == ["run"]
    assert shown.hooks == adjust.hooks
    for name in ("cgroups_path", "oom_score_adj", "io_priority", "scheduler", "seccomp_policy", "rdt"):
        assert getattr(shown.linux, name) == getattr(adjust.linux, name), name
    assert shown.linux.net_devices["eth1"].name == "net1"
    assert shown.linux.sysctl["kernel.sem"] == "2"
    assert shown.linux.devices[-1] == adjust.linux.devices[0]
    assert shown.env[1] == "RAW=�"
    assert shown.linux.seccomp_profile.profile_type == nri.SecurityProfile.UNCONFINED
