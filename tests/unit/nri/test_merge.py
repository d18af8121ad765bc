"""The rules by which several plugins' wishes are joined: order, conflicts, removals, the takeover of what was removed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.nri.merge import CreateMerge, UpdateMerge
from orlop.specs.nri_gen import nri_pb2 as nri

F = nri.Field


def answer(**adjust: object) -> nri.CreateContainerResponse:
    return nri.CreateContainerResponse(adjust=nri.ContainerAdjustment(**adjust))


def linux(**fields: object) -> nri.CreateContainerResponse:
    return answer(linux=nri.LinuxContainerAdjustment(**fields))


def memory(limit: int) -> nri.LinuxResources:
    return nri.LinuxResources(memory=nri.LinuxMemory(limit=nri.OptionalInt64(value=limit)))


def container(**fields: object) -> nri.Container:
    return nri.Container(id="c", **fields)


# One case a field that may have one owner only: (a wish, what the error calls it).
SINGLE = [
    (answer(annotations={"k": "v"}), "Annotations k"),
    (answer(mounts=[nri.Mount(destination="/m")]), "Mounts /m"),
    (answer(env=[nri.KeyValue(key="E", value="1")]), "Env E"),
    (answer(args=["sh"]), "Args"),
    (answer(rlimits=[nri.POSIXRlimit(type="RLIMIT_CORE")]), "Rlimits RLIMIT_CORE"),
    (answer(CDI_devices=[nri.CDIDevice(name="v/c=d")]), "CdiDevices v/c=d"),
    (linux(devices=[nri.LinuxDevice(path="/dev/x")]), "Devices /dev/x"),
    (linux(cgroups_path="/p"), "CgroupsPath"),
    (linux(oom_score_adj=nri.OptionalInt(value=1)), "OomScoreAdj"),
    (linux(io_priority=nri.LinuxIOPriority(priority=1)), "IoPriority"),
    (linux(seccomp_policy=nri.LinuxSeccomp(default_action="SCMP_ACT_ALLOW")), "SeccompPolicy"),
    (linux(scheduler=nri.LinuxScheduler(nice=1)), "LinuxSched"),
    (linux(memory_policy=nri.LinuxMemoryPolicy(nodes="0")), "MemoryPolicy"),
    (linux(namespaces=[nri.LinuxNamespace(type="cgroup")]), "Namespace cgroup"),
    (linux(sysctl={"a.b": "1"}), "Sysctl a.b"),
    (linux(net_devices={"eth1": nri.LinuxNetDevice(name="net1")}), "LinuxNetDevices eth1"),
    (linux(rdt=nri.LinuxRdt(clos_id=nri.OptionalString(value="c"))), "RdtClosID"),
    (linux(resources=memory(1)), "MemLimit"),
    (linux(resources=nri.LinuxResources(cpu=nri.LinuxCPU(cpus="0"))), "CPUSetCPUs"),
    (linux(resources=nri.LinuxResources(cpu=nri.LinuxCPU(shares=nri.OptionalUInt64(value=0)))), "CPUShares"),
    (linux(resources=nri.LinuxResources(pids=nri.LinuxPids(limit=5))), "PidsLimit"),
    (
        linux(resources=nri.LinuxResources(hugepage_limits=[nri.HugepageLimit(page_size="2MB", limit=1)])),
        "HugepageLimits 2MB",
    ),
    (linux(resources=nri.LinuxResources(unified={"memory.high": "1"})), "CgroupsUnified memory.high"),
    (linux(resources=nri.LinuxResources(blockio_class=nri.OptionalString(value="b"))), "BlockioClass"),
    (linux(resources=nri.LinuxResources(rdt_class=nri.OptionalString(value="r"))), "RdtClass"),
]


@pytest.mark.parametrize(("wish", "name"), SINGLE, ids=[name for _, name in SINGLE])
def test_two_plugins_may_not_set_the_same(wish, name):
    merge = CreateMerge(container())
    merge.add(wish, "10-first")
    assert merge.adjust == wish.adjust, "one plugin's wish is the adjustment"
    with pytest.raises(FailedPrecondition, match=rf"20-second and 10-first both set {name}$"):
        merge.add(wish, "20-second")


def test_every_field_that_has_an_owner_is_tried_above():
    tried = {name.split()[0] for _, name in SINGLE}
    same_code = {
        "MemReservation",
        "MemSwapLimit",
        "MemKernelLimit",
        "MemTCPLimit",
        "MemSwappiness",
        "MemDisableOomKiller",
        "MemUseHierarchy",
        "CPUQuota",
        "CPUPeriod",
        "CPURealtimeRuntime",
        "CPURealtimePeriod",
        "CPUSetMems",
        "RdtSchemata",
        "RdtEnableMonitoring",
    }
    assert set(F.keys()) - tried - same_code == {"NoField", "OciHooks"}


def test_different_keys_are_joined_in_order():
    merge = CreateMerge(container(env=["PATH=/bin", "A=0"], annotations={"x": "0"}))
    merge.add(answer(env=[nri.KeyValue(key="A", value="1")], annotations={"x": "1"}), "10-a")
    merge.add(answer(env=[nri.KeyValue(key="B", value="2")], annotations={"y": "2"}), "20-b")
    assert list(merge.container.env) == ["PATH=/bin", "A=1", "B=2"], "the next plugin sees both"
    assert dict(merge.adjust.annotations) == {"x": "1", "y": "2"}
    assert merge.owners.plugins() == ("10-a", "20-b")


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        (
            answer(env=[nri.KeyValue(key="A", value="1")]),
            answer(env=[nri.KeyValue(key="-A"), nri.KeyValue(key="A", value="2")]),
            answer(env=[nri.KeyValue(key="A", value="2")]),
        ),
        (
            answer(mounts=[nri.Mount(destination="/m", source="/1")]),
            answer(mounts=[nri.Mount(destination="-/m")]),
            answer(mounts=[nri.Mount(destination="-/m")]),
        ),
        (
            answer(annotations={"k": "1"}),
            answer(annotations={"-k": "", "k": "2"}),
            answer(annotations={"-k": "", "k": "2"}),
        ),
        (
            linux(net_devices={"eth1": nri.LinuxNetDevice(name="a")}),
            linux(net_devices={"-eth1": nri.LinuxNetDevice()}),
            linux(net_devices={"-eth1": nri.LinuxNetDevice()}),
        ),
        (answer(args=["a"]), answer(args=["", "b"]), answer(args=["b"])),
        (
            linux(rdt=nri.LinuxRdt(clos_id=nri.OptionalString(value="a"))),
            linux(rdt=nri.LinuxRdt(remove=True, clos_id=nri.OptionalString(value="b"))),
            linux(rdt=nri.LinuxRdt(remove=True, clos_id=nri.OptionalString(value="b"))),
        ),
    ],
    ids=["env", "mounts", "annotations", "net_devices", "args", "rdt"],
)
def test_what_one_set_another_may_take_over_by_removing_it(first, second, left):
    merge = CreateMerge(container())
    merge.add(first, "10-first")
    merge.add(second, "20-second")
    assert merge.adjust == left.adjust
    with pytest.raises(FailedPrecondition, match="30-third and 20-second"):
        merge.add(first, "30-third")


def test_what_the_container_had_itself_is_removed():
    merge = CreateMerge(
        container(
            env=["A=1"],
            mounts=[nri.Mount(destination="/m")],
            annotations={"k": "v"},
            linux=nri.LinuxContainer(devices=[nri.LinuxDevice(path="/dev/x")]),
        )
    )
    wish = answer(
        env=[nri.KeyValue(key="-A")],
        mounts=[nri.Mount(destination="-/m")],
        annotations={"-k": ""},
        linux=nri.LinuxContainerAdjustment(devices=[nri.LinuxDevice(path="-/dev/x")]),
    )
    merge.add(wish, "10-a")
    seen = merge.container
    assert not (seen.env or seen.mounts or seen.annotations or seen.linux.devices)
    assert merge.adjust == wish.adjust, "the removal reaches the runtime"


def test_hooks_are_shared():
    merge = CreateMerge(container())
    for name in ("10-a", "20-b"):
        merge.add(answer(hooks=nri.Hooks(poststop=[nri.Hook(path=f"/{name}")])), name)
    assert [hook.path for hook in merge.adjust.hooks.poststop] == ["/10-a", "/20-b"]
    assert merge.owning_plugins().owners["c"].simple[F.OciHooks] == "10-a,20-b"


def test_validators_are_told_who_asked_for_what():
    merge = CreateMerge(container())
    merge.add(answer(args=["sh"], env=[nri.KeyValue(key="E")]), "10-a")
    update = nri.ContainerUpdate(container_id="other", linux=nri.LinuxContainerUpdate(resources=memory(7)))
    merge.add(nri.CreateContainerResponse(update=[update]), "20-b")
    owners = merge.owning_plugins().owners
    assert owners["c"].simple[F.Args] == "10-a"
    assert owners["c"].compound[F.Env].owners["E"] == "10-a"
    assert owners["other"].simple[F.MemLimit] == "20-b"


def test_a_container_is_not_updated_while_it_is_created():
    merge = CreateMerge(container())
    with pytest.raises(InvalidArgument, match="while it is created"):
        merge.add(nri.CreateContainerResponse(update=[nri.ContainerUpdate(container_id="c")]), "10-a")


def test_updates_of_others_are_joined_and_may_conflict():
    def update(resources: nri.LinuxResources, *, may_fail: bool = False) -> list[nri.ContainerUpdate]:
        made = nri.LinuxContainerUpdate(resources=resources)
        return [nri.ContainerUpdate(container_id="x", linux=made, ignore_failure=may_fail)]

    merge = UpdateMerge()
    merge.add(update(memory(5)), "10-a")
    merge.add(update(nri.LinuxResources(cpu=nri.LinuxCPU(cpus="1"))), "20-b")
    merge.add(update(memory(6), may_fail=True), "30-c")
    (joined,) = merge.updates
    assert joined.linux.resources.memory.limit.value == 5, "a conflict that may fail changes nothing"
    assert joined.linux.resources.cpu.cpus == "1"
    assert not joined.ignore_failure, "one of them may not fail"
    with pytest.raises(FailedPrecondition, match="40-d and 10-a both set MemLimit"):
        merge.add(update(memory(6)), "40-d")


def test_an_update_request_is_changed_for_the_plugins_behind():
    merge = UpdateMerge("c", memory(100))
    wish = nri.ContainerUpdate(container_id="c", linux=nri.LinuxContainerUpdate(resources=memory(50)))
    merge.add([wish], "10-a", [nri.ContainerEviction(container_id="e", reason="r")])
    assert merge.wanted == memory(50)
    assert merge.changed
    assert merge.updates == []
    assert [each.container_id for each in merge.evictions] == ["e"]
    with pytest.raises(FailedPrecondition, match="20-b and 10-a both set MemLimit"):
        merge.add([wish], "20-b")


KEYS = st.sampled_from(["a", "b", "-a", "-b"])
WISHES = st.lists(st.lists(KEYS, max_size=4, unique=True), max_size=5)


@given(WISHES)
def test_whatever_is_asked_the_next_plugin_sees_what_the_adjustment_makes(wishes):
    """Carrying the adjustment out on the original gives what the plugins were shown; or there was a conflict."""
    original = {"a": "orig"}
    merge = CreateMerge(container(env=["a=orig"], annotations=dict(original)))
    for number, keys in enumerate(wishes):
        env = [nri.KeyValue(key=key, value=f"{number}") for key in keys]
        try:
            merge.add(answer(env=env, annotations=dict.fromkeys(keys, f"{number}")), f"{number:02}-p")
        except FailedPrecondition:
            return
    made = dict(original)
    for each in merge.adjust.env:
        if each.key.startswith("-"):
            made.pop(each.key[1:], None)
        else:
            made[each.key] = each.value
    assert made == dict(each.split("=") for each in merge.container.env)
    annotations = dict(original)
    for key in merge.adjust.annotations:
        if key.startswith("-"):
            annotations.pop(key[1:], None)
    annotations |= {key: value for key, value in merge.adjust.annotations.items() if not key.startswith("-")}
    assert annotations == dict(merge.container.annotations)
