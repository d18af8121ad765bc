"""The order that is security, and the choices that golden plans do not show on their own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.codec import decode, encode
from orlop.oci.compile import INHERITED, OF_POD_INIT, Facts, OfContainer, compile_container, compile_exec, compile_pod
from orlop.oci.mountoptions import KNOWN
from orlop.oci.ops import Fd, Plan
from orlop.specs import runtime as oci

CAPS = ("CAP_CHOWN", "CAP_KILL")
SETS = oci.Capabilities(bounding=CAPS, effective=CAPS, permitted=CAPS)
SECCOMP = oci.Seccomp(default_action="SCMP_ACT_ALLOW")
FILTER = bytes(16)


def a_spec(
    *mounts: oci.Mount, namespaces: tuple[oci.Namespace, ...] = (), process: dict[str, Any] | None = None, **linux: Any
) -> oci.RuntimeSpec:
    return oci.RuntimeSpec(
        oci_version="1.2.0",
        root=oci.Root(path="/r"),
        process=oci.Process(**{"cwd": "/", "args": ("sh",), "capabilities": SETS, **(process or {})}),
        mounts=mounts,
        linux=oci.Linux(namespaces=(oci.Namespace(type="mount"), *namespaces), **linux),
    )


def names(plan: Plan) -> list[str]:
    return [op.opname for op in plan.ops]


def only(plan: Plan, kind: type[ops.Op]) -> Any:
    (found,) = [op for op in plan.ops if type(op) is kind]
    return found


def before(plan: Plan, *expected: str) -> None:
    positions = [names(plan).index(name) for name in expected]
    assert positions == sorted(positions), (expected, positions)


def test_with_no_new_privs_seccomp_is_the_last_thing_before_exec() -> None:
    plan = compile_container(a_spec(process={"no_new_privileges": True}, seccomp=SECCOMP), Facts(seccomp_filter=FILTER))
    assert names(plan)[-3:] == ["gate", "seccomp", "exec"]
    assert only(plan, ops.Capabilities).effective == k.capability_mask(CAPS)
    before(plan, "capabilities", "no_new_privs", "gate")


def test_without_it_the_filter_is_loaded_while_sys_admin_is_still_held_and_then_dropped() -> None:
    plan = compile_container(a_spec(seccomp=SECCOMP), Facts(seccomp_filter=FILTER))
    assert names(plan)[-4:] == ["gate", "seccomp", "final_caps", "exec"]
    wanted = k.capability_mask(CAPS)
    held, final = only(plan, ops.Capabilities), only(plan, ops.FinalCaps)
    assert held.effective == held.permitted == wanted | k.CAP_SYS_ADMIN
    assert (final.effective, final.permitted, final.inheritable) == (wanted, wanted, 0)
    # It can not come back by exec.
    assert only(plan, ops.BoundingSet).keep == wanted


def test_without_a_filter_nothing_is_held() -> None:
    plan = compile_container(a_spec(), Facts())
    assert "final_caps" not in names(plan)
    assert only(plan, ops.Capabilities).permitted == k.capability_mask(CAPS)


def test_privileges_go_in_the_order_in_which_each_still_can_be_dropped() -> None:
    plan = compile_container(a_spec(masked_paths=("/m",), readonly_paths=("/o",)), Facts())
    before(plan, "root_propagation", "rootfs", "mknod", "readonly", "mask", "pivot_root", "stdio_owner")
    before(plan, "bounding_set", "groups", "user", "capabilities", "chdir", "gate", "exec")


def test_no_capabilities_in_the_spec_means_none() -> None:
    plan = compile_container(a_spec(process={"capabilities": None}), Facts())
    caps = only(plan, ops.Capabilities)
    assert (caps.effective, caps.permitted, caps.inheritable, caps.ambient) == (0, 0, 0, 0)
    assert only(plan, ops.BoundingSet).keep == 0


def test_capabilities_beyond_the_kernels_last_are_left_out() -> None:
    sets = oci.Capabilities(bounding=("CAP_BPF", "CAP_KILL"), effective=("CAP_BPF",), permitted=("CAP_BPF",))
    plan = compile_container(a_spec(process={"capabilities": sets}), Facts(last_capability=37))
    assert only(plan, ops.BoundingSet).keep == k.capability_mask(["CAP_KILL"])
    assert only(plan, ops.Capabilities).permitted == 0


def test_ambient_needs_permitted_and_inheritable() -> None:
    sets = oci.Capabilities(permitted=CAPS, inheritable=("CAP_KILL",), ambient=CAPS)
    plan = compile_container(a_spec(process={"capabilities": sets}), Facts())
    assert only(plan, ops.Capabilities).ambient == k.capability_mask(["CAP_KILL"])


def test_the_host_is_cut_off_before_the_first_mount() -> None:
    tmpfs = oci.Mount(destination="/t", type="tmpfs")
    slave = oci.Mount(destination="/s", type="bind", source="/s", options=("rbind", "rslave"))
    shared = oci.Mount(destination="/s", type="bind", source="/s", options=("rbind", "rshared"))

    def root(*mounts: oci.Mount, propagation: str = "") -> int:
        plan = compile_container(a_spec(*mounts, rootfs_propagation=propagation), Facts())
        before(plan, "root_propagation", "rootfs", "mount_new" if tmpfs in mounts else "mount_bind")
        return int(only(plan, ops.RootPropagation).flags)

    assert root(tmpfs) == k.MS_PRIVATE | k.MS_REC
    assert root(slave) == root(shared) == k.MS_SLAVE | k.MS_REC
    assert root(shared, propagation="rshared") == k.MS_SHARED | k.MS_REC
    # Unbindable is for the new root: of the old one it would forbid every bind.
    assert root(tmpfs, propagation="runbindable") == k.MS_PRIVATE | k.MS_REC
    plan = compile_container(a_spec(rootfs_propagation="runbindable"), Facts())
    assert only(plan, ops.RootfsAttrs).propagation == k.MS_UNBINDABLE | k.MS_REC


def test_clones_of_host_mounts_are_private_when_the_tree_is_shared() -> None:
    plain = oci.Mount(destination="/s", type="bind", source="/s", options=("rbind", "rprivate"))
    cgroup = oci.Mount(destination="/sys/fs/cgroup", type="cgroup")
    plan = compile_container(a_spec(plain, cgroup, rootfs_propagation="rshared"), Facts())
    binds = [op for op in plan.ops if isinstance(op, ops.MountBind)]
    assert [op.propagation for op in binds] == [k.MS_PRIVATE | k.MS_REC] * 2


def test_a_detached_tree_stands_in_for_the_mount_and_is_made_private() -> None:
    shm = oci.Mount(destination="/dev/shm", type="tmpfs", source="shm", options=("nosuid", "size=64k"))
    plan = compile_container(a_spec(shm), Facts(trees={"/dev/shm": Fd("pod.shm")}))
    bind = only(plan, ops.MountBind)
    assert (bind.tree, bind.source, bind.attr_set) == ("pod.shm", "", k.ATTR_NOSUID)
    assert bind.propagation == k.MS_PRIVATE | k.MS_REC
    assert "pod.shm" in plan.fds


def test_a_filesystem_that_is_still_filled_becomes_read_only_at_the_end() -> None:
    dev = oci.Mount(destination="/dev", type="tmpfs", options=("ro",))
    sysfs = oci.Mount(destination="/sys", type="sysfs", options=("ro",))
    below = oci.Mount(destination="/sys/fs/cgroup", type="tmpfs")
    plan = compile_container(a_spec(dev, sysfs, below), Facts())
    new = {op.target: op.attrs for op in plan.ops if isinstance(op, ops.MountNew)}
    # sysfs has its mount points: it can be read-only at once.
    assert (new["/dev"], new["/sys"]) == (0, k.ATTR_RDONLY)
    sealed = only(plan, ops.MountMoveAttrs)
    assert (sealed.target, sealed.attr_set) == ("/dev", k.ATTR_RDONLY)
    before(plan, "mknod", "symlink", "mount_move_attrs", "pivot_root")


def test_a_bound_dev_is_the_hosts_and_nothing_is_made_in_it() -> None:
    dev = oci.Mount(destination="/dev", type="bind", source="/dev", options=("rbind",))
    plan = compile_container(a_spec(dev), Facts())
    assert not {"mknod", "symlink"} & set(names(plan))


def test_a_device_of_the_spec_replaces_the_default_of_its_path() -> None:
    null = oci.Device(path="/dev/null", type="c", major=1, minor=3, file_mode=0o600, uid=5, gid=6)
    plan = compile_container(a_spec(devices=(null,)), Facts())
    (node,) = [op for op in plan.ops if isinstance(op, ops.Mknod) and op.target == "/dev/null"]
    assert (node.mode, node.uid, node.gid) == (k.S_IFCHR | 0o600, 5, 6)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (INHERITED, None),
        (OF_POD_INIT, ops.JoinPodInit()),
        (OfContainer("t"), ops.JoinPidOf(container="t")),
        (Fd("x"), ops.JoinPid(ns=Fd("x"))),
    ],
)
def test_ways_into_a_pid_namespace(where: Any, expected: ops.Op | None) -> None:
    plan = compile_container(
        a_spec(namespaces=(oci.Namespace(type="pid", path="/p"),)), Facts(namespaces={"pid": where})
    )
    joins = [op for op in plan.ops if op.opname.startswith("join_")]
    assert joins == ([] if expected is None else [expected])
    assert not only(plan, ops.Clone).flags & k.CLONE_NEWPID


def test_a_namespace_that_the_spec_does_not_list_is_the_hosts() -> None:
    plan = compile_container(a_spec(), Facts(monitor_namespaces=frozenset({"network"})))
    assert only(plan, ops.Setns) == ops.Setns(ns=Fd("host.network"), nstype=k.CLONE_NEWNET)
    assert "setns" not in names(compile_container(a_spec(), Facts()))


def test_the_cgroup_namespace_is_made_after_the_cgroup_is_joined() -> None:
    plan = compile_container(a_spec(namespaces=(oci.Namespace(type="cgroup"),)), Facts(cgroup_tasks=(Fd("a"), Fd("b"))))
    before(plan, "clone", "cgroup_join", "unshare")
    assert not only(plan, ops.Clone).flags & k.CLONE_NEWCGROUP
    assert [op.tasks for op in plan.ops if isinstance(op, ops.CgroupJoin)] == ["a", "b"]


def test_without_a_cgroup_namespace_v2_is_bound_and_never_mounted_anew() -> None:
    cgroup = oci.Mount(destination="/sys/fs/cgroup", type="cgroup", options=("ro",))
    plan = compile_container(a_spec(cgroup), Facts())
    bind = only(plan, ops.MountBind)
    assert (bind.source, bind.attr_set) == ("/sys/fs/cgroup", k.ATTR_RDONLY)


def test_a_new_user_namespace_binds_devices() -> None:
    maps = (oci.IDMapping(container_id=0, host_id=100000, size=65536),)
    plan = compile_container(
        a_spec(namespaces=(oci.Namespace(type="user"),), uid_mappings=maps, gid_mappings=maps), Facts()
    )
    assert only(plan, ops.IdMaps).uid_map == "0 100000 65536\n"
    assert "mknod" not in names(plan)
    assert "mount_bind" in names(plan)


@pytest.mark.parametrize(
    ("spec", "facts", "error", "words"),
    [
        (a_spec(seccomp=SECCOMP), Facts(), InvalidArgument, "linux.seccomp: given, but no compiled filter"),
        (a_spec(mount_label="x"), Facts(), Unimplemented, "linux.mountLabel"),
        (a_spec(process={"exec_cpu_affinity": oci.CPUAffinity(initial="0")}), Facts(), Unimplemented, "execCPUAffinity"),
        (a_spec(process={"apparmor_profile": "a", "selinux_label": "b"}), Facts(), InvalidArgument, "selinuxLabel"),
        (msgspec.structs.replace(a_spec(), root=oci.Root(path="r")), Facts(rootfs=None), InvalidArgument, "root.path: 'r'"),
        (a_spec(oci.Mount(destination="/a", type="bind", source="b")), Facts(), InvalidArgument, r"mounts\[0\].source: 'b'"),
        (a_spec(process={"cwd": "/a/../b"}), Facts(), InvalidArgument, "process.cwd: .*'..'"),
        (
            a_spec(namespaces=(oci.Namespace(type="network", path="/n"),)),
            Facts(namespaces={"network": OF_POD_INIT}),
            InvalidArgument,
            "network cannot be joined through a process",
        ),
    ],
)  # fmt: skip
def test_refusals(spec: oci.RuntimeSpec, facts: Facts, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        compile_container(spec, facts)


def test_exec_needs_its_container() -> None:
    with pytest.raises(InvalidArgument, match="exec: a container's id"):
        compile_exec(oci.Process(cwd="/", args=("a",)), a_spec(), Facts())


def test_exec_has_no_gate_and_makes_nothing() -> None:
    process = oci.Process(cwd="/", args=("ls",), capabilities=SETS)
    plan = compile_exec(process, a_spec(seccomp=SECCOMP), Facts(container_id="c", seccomp_filter=FILTER))
    assert "gate" not in names(plan)
    assert only(plan, ops.Clone).flags == 0
    assert not any(op.phase is ops.Phase.MOUNT for op in plan.ops)
    assert names(plan)[-3:] == ["seccomp", "final_caps", "exec"]


def test_pod_plans_refuse_what_would_reach_the_host() -> None:
    with pytest.raises(InvalidArgument, match="hostname: needs a UTS namespace"):
        compile_pod(network=True, ipc=True, uts=False, hostname="h")
    with pytest.raises(InvalidArgument, match="hostname: .*line break"):
        compile_pod(network=True, ipc=True, uts=True, hostname="h\n")
    with pytest.raises(InvalidArgument, match="own network namespace"):
        compile_pod(network=False, ipc=True, uts=True, sysctls={"net.core.somaxconn": "1"})
    assert compile_pod(network=False, ipc=False, uts=False).ops == ()


TARGETS = st.sampled_from(["/a", "/a/b", "/a/b/c", "/dev", "/dev/shm", "/sys", "/z"])
MOUNTS = st.builds(
    oci.Mount,
    destination=TARGETS,
    type=st.sampled_from(["tmpfs", "sysfs", "bind", "cgroup", "mqueue"]),
    source=st.just("/src"),
    options=st.lists(st.sampled_from([word for word in KNOWN if "idmap" not in word]), max_size=6).map(tuple),
)


@given(st.lists(MOUNTS, max_size=8), st.sampled_from(["", "rslave", "shared", "rprivate", "unbindable"]), st.booleans())
def test_any_mounts_make_a_plan_that_decodes_to_itself(mounts: list[oci.Mount], propagation: str, v2: bool) -> None:
    plan = compile_container(a_spec(*mounts, rootfs_propagation=propagation), Facts(cgroup_v2=v2))
    assert decode(encode(plan), plan.fds) == plan
    # Whatever was asked for, the spec's mounts come in the spec's order.
    made = [op.target for op in plan.ops if isinstance(op, ops.MountNew | ops.MountBind)]
    wanted = [mount.destination for mount in mounts if "remount" not in mount.options]
    assert [target for target in made if target in wanted] == wanted
