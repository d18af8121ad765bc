"""The documents and plans that the programs of other runtimes get."""

import json

import msgspec
import pytest

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.oci import foreign, ops
from orlop.oci import kernelnames as k
from orlop.oci.codec import decode, encode
from orlop.oci.foreign import Limits, Program, Room, compile_program, document, exec_words, program_spec
from orlop.oci.ops import Fd, Foreign
from orlop.specs import runtime as oci

CRUN = Program(path="/usr/bin/crun", spec_max="1.0.0", exec_cgroup=True)
SHM = oci.Mount(destination="/dev/shm", type="tmpfs", source="shm", options=("nosuid", "mode=1777", "size=65536k"))
IMAGE = oci.Mount(destination="/image", type="bind", source="name", options=("rbind", "rprivate", "ro"))
SPEC = oci.RuntimeSpec(
    oci_version="1.3.0",
    process=oci.Process(
        cwd="/", args=("a",), oom_score_adj=-998, rlimits=(oci.Rlimit(type="RLIMIT_NOFILE", soft=50, hard=100),)
    ),
    root=oci.Root(path="rootfs"),
    mounts=(SHM, oci.Mount(destination="/proc", type="proc", source="proc"), IMAGE),
    linux=oci.Linux(),
)


def test_detached_mounts_become_binds_below_the_bundle() -> None:
    trees = {"/dev/shm": Fd("pod.shm"), "/image": Fd("image./image")}
    spec, places = program_spec(SPEC, CRUN, "/b", trees, "/p/c", None, "c")
    assert places == ((Fd("rootfs"), "/b/rootfs"), (Fd("pod.shm"), "/b/mount1"), (Fd("image./image"), "/b/mount2"))
    assert spec.root is not None and spec.root.path == "/b/rootfs"
    assert spec.oci_version == "1.0.0"
    assert spec.linux is not None and spec.linux.cgroups_path == "/p/c"
    shm, proc, image = spec.mounts
    assert (shm.type, shm.source, shm.options) == ("bind", "/b/mount1", ("rbind", "rprivate", "nosuid"))
    assert proc == SPEC.mounts[1]
    assert (image.source, image.options) == ("/b/mount2", IMAGE.options)


def test_an_id_mapped_mount_needs_a_program_that_can() -> None:
    mapping = (oci.IDMapping(host_id=1, size=1),)
    spec = msgspec.structs.replace(SPEC, mounts=(msgspec.structs.replace(IMAGE, uid_mappings=mapping),))
    with pytest.raises(Unimplemented, match="c: mounts: /image: /usr/bin/crun .*cannot make id-mapped mounts"):
        program_spec(spec, CRUN, "/b", {}, "/p/c", None, "c")
    program_spec(spec, msgspec.structs.replace(CRUN, idmapped_mounts=True), "/b", {}, "/p/c", None, "c")


def test_limits_that_may_not_be_raised_are_clamped() -> None:
    own = Limits(oom_score_adj=0, hard={"RLIMIT_NOFILE": 20})
    process = program_spec(SPEC, CRUN, "/b", {}, "/p/c", own, "c")[0].process
    assert process is not None
    assert process.oom_score_adj == 0
    assert process.rlimits == (oci.Rlimit(type="RLIMIT_NOFILE", soft=20, hard=20),)
    assert program_spec(SPEC, CRUN, "/b", {}, "/p/c", None, "c")[0].process == SPEC.process


def test_what_the_specification_requires_stands_there_also_when_it_is_zero() -> None:
    spec = msgspec.structs.replace(
        SPEC,
        process=oci.Process(cwd="/", args=("a",), rlimits=(oci.Rlimit(type="RLIMIT_CORE"),)),
        linux=oci.Linux(
            uid_mappings=(oci.IDMapping(size=1),),
            resources=oci.Resources(hugepage_limits=(oci.HugepageLimit(page_size="2MB"),)),
            seccomp=oci.Seccomp(
                default_action="SCMP_ACT_ERRNO",
                syscalls=(
                    oci.Syscall(
                        names=("x",), action="SCMP_ACT_ALLOW", args=(oci.SeccompArg(index=0, op="SCMP_CMP_EQ"),)
                    ),
                ),
            ),
        ),
    )
    whole = json.loads(document(spec, "c"))
    assert whole["process"]["user"] == {"uid": 0, "gid": 0}
    assert whole["process"]["rlimits"] == [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert whole["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 0, "size": 1}]
    assert whole["linux"]["resources"]["hugepageLimits"] == [{"pageSize": "2MB", "limit": 0}]
    assert whole["linux"]["seccomp"]["syscalls"][0]["args"] == [{"index": 0, "op": "SCMP_CMP_EQ", "value": 0}]
    assert oci.parse(document(spec, "c")) == spec
    assert json.loads(document(oci.Process(cwd="/"), "c"))["user"] == {"uid": 0, "gid": 0}


def test_json_carries_only_text() -> None:
    process = oci.Process(cwd="/", args=("\udcff",))
    with pytest.raises(InvalidArgument, match="c: an argument or a variable is not UTF-8"):
        document(process, "c")


def names(plan: ops.Plan) -> list[str]:
    return [op.opname for op in plan.ops]


def test_the_plan_of_a_creation() -> None:
    makes = Foreign(directory=foreign.BUNDLE, pid_file="pid", console=None)
    room = Room(hidden=("/sys/fs/cgroup/unified",), private=("/run",), cgroup=foreign.CGROUP_CLONE)
    places = ((foreign.ROOTFS, "/b/rootfs"),)
    plan = compile_program(("/usr/bin/crun", "create"), room, directory="/b", makes=makes, places=places)
    assert names(plan) == [
        "foreign",
        "clone",
        *["setns"] * 3,
        "setsid",
        "root_propagation",
        *["place"] * 2,
        "stdio",
        "chdir",
        "exec",
    ]
    clone, propagation = plan.ops[1], plan.ops[6]
    assert isinstance(clone, ops.Clone) and clone.flags == k.CLONE_NEWNS and clone.cgroup == foreign.CGROUP_CLONE
    assert isinstance(propagation, ops.RootPropagation) and propagation.flags == k.MS_SLAVE | k.MS_REC
    assert decode(encode(plan), plan.fds) == plan


def test_volumes_that_carry_mounts_to_the_host_keep_their_peers() -> None:
    room = Room(hidden=("/sys/fs/cgroup/unified",), shared=True, private=("/run",))
    plan = compile_program(("/usr/bin/crun",), room, directory="/b")
    private = [(op.path, op.flags) for op in plan.ops if isinstance(op, ops.HostPropagation)]
    assert private == [("/run", k.MS_PRIVATE), ("/sys/fs/cgroup/unified", k.MS_PRIVATE)]
    assert "root_propagation" not in names(plan)


def test_command_lines() -> None:
    argv = foreign.command_line(CRUN, "/r", "/l", "start", "c1")
    assert argv == ("/usr/bin/crun", "--root", "/r", "--log", "/l", "--log-format", "json", "start", "c1")
    words = exec_words(CRUN, "c1", "e1", process="/p", pid_file="/f", console="e1.sock", cgroup=True)
    assert words[-1] == "c1"
    assert words[words.index("--cgroup") :][:2] == ("--cgroup", "e1")
    assert "--tty" in words
    plain = msgspec.structs.replace(CRUN, exec_cgroup=False)
    words = exec_words(plain, "c1", "e1", process="/p", pid_file="/f", console="", cgroup=True)
    assert words == ("exec", "--detach", "--process", "/p", "--pid-file", "/f", "c1")
