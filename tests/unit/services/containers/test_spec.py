"""From CRI's words to a runtime spec: defaults, precedence, refusals."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument, Unimplemented
from orlop.oci.compile import INHERITED, OF_POD_INIT, OfContainer
from orlop.oci.kernelnames import CAPABILITIES
from orlop.oci.validate import validate_spec
from orlop.services.containers.spec import BuiltSpec, build_spec
from orlop.services.containers.spec_inputs import Host, ImageDefaults, PodFiles
from orlop.services.containers.spec_mounts import image_mounts
from orlop.services.containers.spec_process import build_exec_process, parse_signal, stop_signal
from orlop.services.containers.spec_security import DEFAULT_CAPABILITIES, choose_seccomp, container_capabilities
from orlop.services.containers.user import ResolvedUser
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.pod import NamespaceMode, ProfileType, Propagation

HOST = Host(capabilities=CAPABILITIES, hostname="node")
IMAGE = ImageDefaults(entrypoint=("/entry",), cmd=("image-arg",))
OWN = pod.NamespaceOptions(pid=NamespaceMode.CONTAINER)


def config(**changes: Any) -> pod.ContainerConfig:
    base = pod.ContainerConfig(metadata=pod.ContainerMetadata(name="c"), security=pod.ContainerSecurity(namespaces=OWN))
    return msgspec.structs.replace(base, **changes)


def secure(**changes: Any) -> pod.ContainerConfig:
    return config(security=pod.ContainerSecurity(**{"namespaces": OWN, **changes}))


def sandbox(**security: Any) -> pod.SandboxConfig:
    return pod.SandboxConfig(
        metadata=pod.SandboxMetadata(name="p", namespace="ns", uid="u"),
        hostname="web",
        security=pod.SandboxSecurity(**{"namespaces": OWN, **security}),
    )


def build(config: pod.ContainerConfig, pod_config: pod.SandboxConfig | None = None, **rest: Any) -> BuiltSpec:
    arguments: dict[str, Any] = {"user": ResolvedUser(), "host": HOST, **rest}
    image = arguments.pop("image", IMAGE)
    built = build_spec(config, pod_config or sandbox(), image, **arguments)
    validate_spec(built.spec)
    return built


def process(*args: Any, **rest: Any) -> oci.Process:
    found = build(*args, **rest).spec.process
    assert found is not None
    return found


def linux(*args: Any, **rest: Any) -> oci.Linux:
    found = build(*args, **rest).spec.linux
    assert found is not None
    return found


def mapped(*ranges: pod.IdMapping) -> dict[str, Any]:
    return {"uid_mappings": ranges, "gid_mappings": ranges}


# ---- process


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ((), (), ("/entry", "image-arg")),
        ((), ("a",), ("/entry", "a")),
        (("/run",), (), ("/run",)),
        (("/run",), ("a",), ("/run", "a")),
    ],
)
def test_command_and_args_against_entrypoint_and_cmd(
    command: tuple[str, ...], args: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert process(config(command=command, args=args)).args == expected


def test_no_command_anywhere_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="container c: no command"):
        build(config(), image=ImageDefaults())
    assert process(config(), image=ImageDefaults(entrypoint=("",), cmd=("x",))).args == ("x",)


def test_environment_in_order_with_the_later_value_in_the_earlier_place() -> None:
    image = ImageDefaults(cmd=("x",), env=("PATH=/image", "A=image", "B=image", "HOSTNAME"))
    wanted = config(envs=(pod.KeyValue(key="A", value=b"cri"), pod.KeyValue(key="C", value=b"a=b\nc")))
    assert process(wanted, image=image, user=ResolvedUser(home="/home/u")).env == (
        "PATH=/image",
        "A=cri",
        "B=image",
        "C=a=b\nc",
        "HOME=/home/u",
    )


def test_defaults_of_the_environment() -> None:
    env = process(config(tty=True)).env
    assert env[0].startswith("PATH=/usr/local/sbin:")
    assert env[1:] == ("TERM=xterm", "HOSTNAME=web", "HOME=/")
    assert "HOSTNAME=node" in process(config(), msgspec.structs.replace(sandbox(), hostname="")).env
    assert not any(entry.startswith("TERM=") for entry in process(config()).env)


def test_values_of_the_environment_are_bytes() -> None:
    env = process(config(envs=(pod.KeyValue(key="B", value=b"\xff\x00"[:1]),))).env
    assert [entry.encode("utf-8", "surrogateescape") for entry in env if entry.startswith("B=")] == [b"B=\xff"]


@pytest.mark.parametrize("key", ["", "A=B", "A\0"])
def test_bad_names_in_the_environment(key: str) -> None:
    with pytest.raises(InvalidArgument, match="envs: .* is not a name"):
        build(config(envs=(pod.KeyValue(key=key),)))


@pytest.mark.parametrize("key", ["HOME", "HOSTNAME"])
def test_no_line_breaks_where_programs_copy_values_into_files(key: str) -> None:
    with pytest.raises(InvalidArgument, match=f"envs: {key} holds a line break"):
        build(config(envs=(pod.KeyValue(key=key, value=b"/x\nroot::0:0"),)))


def test_working_directory() -> None:
    image = ImageDefaults(cmd=("x",), working_dir="app")
    assert process(config(), image=image).cwd == "/app"
    assert process(config(working_dir="/w"), image=image).cwd == "/w"
    assert process(config()).cwd == "/"
    with pytest.raises(InvalidArgument, match="working_dir: 'w' is not an absolute path"):
        build(config(working_dir="w"))


def test_the_user_is_the_resolved_one() -> None:
    user = ResolvedUser(uid=5, gid=6, groups=(6, 7))
    assert process(config(), user=user).user == oci.User(uid=5, gid=6, additional_gids=(6, 7))


def test_exec_is_the_container_with_another_command() -> None:
    spec = build(config(working_dir="/w")).spec
    made = build_exec_process(spec, ("ls",), tty=True)
    assert (made.args, made.terminal, made.cwd) == (("ls",), True, "/w")
    assert made.env[-1] == "TERM=xterm"
    assert spec.process is not None
    assert made.capabilities == spec.process.capabilities
    with pytest.raises(InvalidArgument, match="cmd: empty"):
        build_exec_process(spec, (), tty=False)


# ---- security


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), set(DEFAULT_CAPABILITIES)),
        (("NET_ADMIN",), (), {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}),
        (("cap_net_admin",), (), {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}),
        ((), ("MKNOD",), set(DEFAULT_CAPABILITIES) - {"CAP_MKNOD"}),
        ((), ("ALL",), set()),
        (("CHOWN",), ("all",), {"CAP_CHOWN"}),
        (("ALL",), (), set(CAPABILITIES)),
        (("ALL",), ("CHOWN",), set(CAPABILITIES) - {"CAP_CHOWN"}),
        (("ALL", "CHOWN"), ("ALL",), {"CAP_CHOWN"}),
    ],
)
def test_capabilities(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    sets = container_capabilities(pod.ContainerSecurity(capabilities=pod.Capabilities(add=add, drop=drop)), HOST)
    assert set(sets.bounding) == set(sets.effective) == set(sets.permitted) == expected
    # CVE-2022-24769: nothing is inheritable.
    assert sets.inheritable == sets.ambient == ()


def test_ambient_capabilities_are_in_every_set() -> None:
    wanted = pod.Capabilities(drop=("ALL",), add_ambient=("NET_BIND_SERVICE",))
    sets = container_capabilities(pod.ContainerSecurity(capabilities=wanted), HOST)
    assert set(msgspec.structs.astuple(sets)) == {("CAP_NET_BIND_SERVICE",)}


def test_capabilities_that_do_not_exist_or_are_not_here() -> None:
    poor = Host(capabilities=tuple(name for name in CAPABILITIES if name not in ("CAP_BPF", "CAP_MKNOD")))

    def sets(**words: Any) -> oci.Capabilities:
        return container_capabilities(pod.ContainerSecurity(capabilities=pod.Capabilities(**words)), poor)

    with pytest.raises(InvalidArgument, match="add_capabilities: unknown capability 'FLY'"):
        sets(add=("FLY",))
    with pytest.raises(InvalidArgument, match="drop_capabilities: unknown capability 'FLY'"):
        sets(drop=("FLY",))
    with pytest.raises(InvalidArgument, match="CAP_BPF is not available on this host"):
        sets(add=("BPF",))
    # A default that the host lacks is no error.
    assert "CAP_MKNOD" not in sets().bounding


def test_privileged() -> None:
    fuse = oci.Device(path="/dev/fuse", type="c", major=10, minor=229)
    host = msgspec.structs.replace(HOST, devices=(fuse, oci.Device(path="/dev/x", type="b", major=8)))
    mine = oci.Device(path="/dev/x", type="c", major=1, minor=3)
    wanted = secure(
        privileged=True, masked_paths=("/proc/kcore",), readonly_paths=("/proc/sys",), seccomp=pod.SecurityProfile()
    )
    built = build(wanted, sandbox(privileged=True), host=host, devices=(mine,))
    spec = built.spec
    assert spec.linux is not None and spec.process is not None and spec.process.capabilities is not None
    assert spec.process.capabilities.bounding == CAPABILITIES
    assert (spec.linux.masked_paths, spec.linux.readonly_paths) == ((), ())
    assert spec.linux.devices == (fuse, mine)
    assert spec.linux.resources is not None
    assert spec.linux.resources.devices == (oci.DeviceCgroup(allow=True, access="rwm"),)
    assert all("ro" not in mount.options for mount in spec.mounts)
    assert "cgroup" not in {namespace.type for namespace in spec.linux.namespaces}
    assert choose_seccomp(wanted.security, host) is None


def test_privileged_only_in_a_privileged_sandbox() -> None:
    with pytest.raises(InvalidArgument, match="privileged: its sandbox is not privileged"):
        build(secure(privileged=True))


def test_masked_and_readonly_paths_are_those_given_and_none_otherwise() -> None:
    assert linux(config()).masked_paths == linux(config()).readonly_paths == ()
    given = linux(secure(masked_paths=("/bin/ls",), readonly_paths=("/etc",)))
    assert (given.masked_paths, given.readonly_paths) == (("/bin/ls",), ("/etc",))


def test_seccomp_is_chosen_by_the_profile() -> None:
    def choose(profile: pod.SecurityProfile | None, **rest: Any) -> Any:
        return choose_seccomp(pod.ContainerSecurity(seccomp=profile, **rest), HOST)

    assert choose(None) is None
    assert choose(pod.SecurityProfile(profile_type=ProfileType.UNCONFINED)) is None
    default = choose(pod.SecurityProfile())
    assert default.name == "runtime/default"
    admin = choose(pod.SecurityProfile(), capabilities=pod.Capabilities(add=("SYS_ADMIN",)))
    assert admin.digest != default.digest
    assert linux(config(), profile=default).seccomp is default.seccomp


def test_localhost_profiles_come_from_absolute_paths_or_the_directory(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    host = msgspec.structs.replace(HOST, seccomp_directory=str(tmp_path))
    for ref in (str(tmp_path / "p.json"), "p.json", "localhost/p.json"):
        profile = pod.SecurityProfile(profile_type=ProfileType.LOCALHOST, localhost_ref=ref)
        found = choose_seccomp(pod.ContainerSecurity(seccomp=profile), host)
        assert found is not None
        assert found.name == f"localhost/{tmp_path}/p.json"
    with pytest.raises(InvalidArgument, match="No such file"):
        choose_seccomp(
            pod.ContainerSecurity(seccomp=pod.SecurityProfile(profile_type=ProfileType.LOCALHOST, localhost_ref="x")),
            host,
        )


def test_apparmor() -> None:
    here = msgspec.structs.replace(HOST, apparmor=True, apparmor_default="orlop-default")
    local = pod.SecurityProfile(profile_type=ProfileType.LOCALHOST, localhost_ref="localhost/mine")
    with pytest.raises(FailedPrecondition, match="this host has no AppArmor"):
        build(secure(apparmor=local))
    assert process(secure(apparmor=local), host=here).apparmor_profile == "mine"
    assert process(config(), host=here).apparmor_profile == "orlop-default"
    assert process(secure(apparmor=pod.SecurityProfile())).apparmor_profile == ""
    unconfined = pod.SecurityProfile(profile_type=ProfileType.UNCONFINED)
    assert process(secure(apparmor=unconfined), host=here).apparmor_profile == ""


def test_selinux() -> None:
    full = pod.SelinuxOptions(user="system_u", role="system_r", type="container_t", level="s0")
    with pytest.raises(FailedPrecondition, match="this host has no SELinux"):
        build(secure(selinux=full))
    here = msgspec.structs.replace(HOST, selinux=True)
    assert process(secure(selinux=full), host=here).selinux_label == "system_u:system_r:container_t:s0"
    assert process(secure(selinux=pod.SelinuxOptions())).selinux_label == ""
    with pytest.raises(Unimplemented):
        build(secure(selinux=pod.SelinuxOptions(level="s0")), host=here)


def test_no_new_privs_and_readonly_root() -> None:
    spec = build(secure(no_new_privs=True, readonly_rootfs=True), files=PodFiles(hosts="/h")).spec
    assert spec.process is not None and spec.root is not None
    assert spec.process.no_new_privileges and spec.root.readonly
    (hosts,) = [mount for mount in spec.mounts if mount.destination == "/etc/hosts"]
    assert "ro" in hosts.options


# ---- namespaces


def types(built: BuiltSpec) -> dict[str, str]:
    assert built.spec.linux is not None
    return {namespace.type: namespace.path for namespace in built.spec.linux.namespaces}


def test_namespaces_of_an_ordinary_pod() -> None:
    built = build(config(), monitor_pid=7)
    assert types(built) == {
        "mount": "",
        "pid": "",
        "cgroup": "",
        "network": "/proc/7/ns/net",
        "uts": "/proc/7/ns/uts",
        "ipc": "/proc/7/ns/ipc",
    }
    assert built.namespaces == {"network": INHERITED, "uts": INHERITED, "ipc": INHERITED}
    assert built.monitor_namespaces == {"network", "uts", "ipc"}


def test_the_nodes_network_brings_the_nodes_name() -> None:
    everything = pod.NamespaceOptions(network=NamespaceMode.NODE, ipc=NamespaceMode.NODE, pid=NamespaceMode.NODE)
    built = build(secure(namespaces=everything), sandbox(namespaces=everything))
    assert set(types(built)) == {"mount", "cgroup"}
    assert built.monitor_namespaces == frozenset()
    shm = next(mount for mount in built.spec.mounts if mount.destination == "/dev/shm")
    assert (shm.type, shm.source) == ("bind", "/dev/shm")
    assert built.trees == {}


@pytest.mark.parametrize(
    ("container", "sandbox_mode", "where"),
    [
        (NamespaceMode.POD, NamespaceMode.POD, OF_POD_INIT),
        (NamespaceMode.CONTAINER, NamespaceMode.POD, "new"),
        (NamespaceMode.POD, NamespaceMode.CONTAINER, "new"),
        (NamespaceMode.NODE, NamespaceMode.NODE, "host"),
        (NamespaceMode.POD, NamespaceMode.NODE, "host"),
        (NamespaceMode.TARGET, NamespaceMode.CONTAINER, OfContainer("t")),
    ],
)
def test_pid_namespaces(container: NamespaceMode, sandbox_mode: NamespaceMode, where: Any) -> None:
    wanted = pod.NamespaceOptions(pid=container, target_id="t" if container is NamespaceMode.TARGET else "")
    built = build(secure(namespaces=wanted), sandbox(namespaces=pod.NamespaceOptions(pid=sandbox_mode)))
    if where == "host":
        assert "pid" not in types(built)
    elif where == "new":
        assert types(built)["pid"] == ""
    else:
        assert built.namespaces["pid"] == where


def test_namespaces_that_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="pid: NODE, but its sandbox is not"):
        build(secure(namespaces=pod.NamespaceOptions(pid=NamespaceMode.NODE)))
    with pytest.raises(InvalidArgument, match="target_id: empty"):
        build(secure(namespaces=pod.NamespaceOptions(pid=NamespaceMode.TARGET)))
    userns = pod.NamespaceOptions(pid=NamespaceMode.CONTAINER, userns=pod.UserNamespace(mode=NamespaceMode.POD))
    with pytest.raises(Unimplemented, match="user namespaces are not implemented"):
        build(secure(namespaces=userns))
    node = pod.NamespaceOptions(pid=NamespaceMode.CONTAINER, userns=pod.UserNamespace(mode=NamespaceMode.NODE))
    build(secure(namespaces=node))


def test_no_cgroup_namespace_on_v1() -> None:
    assert "cgroup" not in types(build(config(), host=msgspec.structs.replace(HOST, cgroup_v2=False)))


# ---- mounts


def mounts(*wanted: pod.Mount, **rest: Any) -> dict[str, oci.Mount]:
    return {mount.destination: mount for mount in build(config(mounts=wanted), **rest).spec.mounts}


def test_default_mounts() -> None:
    files = PodFiles(hosts="/r/hosts", resolv_conf="/r/resolv.conf", hostname="/r/hostname")
    found = mounts(files=files)
    assert list(found) == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/dev/shm",
    ]
    assert "ro" in found["/sys"].options and "ro" in found["/sys/fs/cgroup"].options
    assert build(config()).trees == {"/dev/shm": "pod.shm"}


def test_mounts_are_sorted_by_depth_and_keep_their_order_within_it() -> None:
    wanted = [pod.Mount(container_path=path, host_path="/s") for path in ("/b/c/d", "/z", "/b", "/a/x/")]
    found = [path for path in mounts(*wanted) if path in ("/b/c/d", "/z", "/b", "/a/x")]
    assert found == ["/z", "/b", "/a/x", "/b/c/d"]


def test_a_mount_replaces_the_default_of_its_path() -> None:
    found = mounts(
        pod.Mount(container_path="/etc/hosts/", host_path="/mine"),
        pod.Mount(container_path="/dev/shm", host_path="/shm"),
        files=PodFiles(hosts="/pod"),
    )
    assert (found["/etc/hosts"].source, found["/dev/shm"].source) == ("/mine", "/shm")
    below = mounts(pod.Mount(container_path="/dev", host_path="/dev"))
    assert "/dev/pts" not in below
    assert below["/dev"].source == "/dev"


@pytest.mark.parametrize(
    ("fields", "options", "root"),
    [
        ({}, ("rbind", "rprivate"), ""),
        ({"readonly": True}, ("rbind", "rprivate", "ro"), ""),
        ({"readonly": True, "recursive_read_only": True}, ("rbind", "rprivate", "rro"), ""),
        ({"propagation": Propagation.HOST_TO_CONTAINER}, ("rbind", "rslave"), "rslave"),
        ({"propagation": Propagation.BIDIRECTIONAL}, ("rbind", "rshared"), "rshared"),
        ({"mount_options": ("noexec", "nosuid")}, ("rbind", "rprivate", "rnoexec", "rnosuid"), ""),
    ],
)
def test_options_of_a_mount(fields: dict[str, Any], options: tuple[str, ...], root: str) -> None:
    built = build(config(mounts=(pod.Mount(container_path="/m", host_path="/s", **fields),)))
    (made,) = [mount for mount in built.spec.mounts if mount.destination == "/m"]
    assert made.options == options
    assert built.spec.linux is not None
    assert built.spec.linux.rootfs_propagation == root
    assert built.host_directories == ("/s",)


def test_shared_wins_over_slave_for_the_root() -> None:
    both = (
        pod.Mount(container_path="/a", host_path="/s", propagation=Propagation.BIDIRECTIONAL),
        pod.Mount(container_path="/b", host_path="/s", propagation=Propagation.HOST_TO_CONTAINER),
    )
    assert linux(config(mounts=both)).rootfs_propagation == "rshared"
    assert linux(config(mounts=both[::-1])).rootfs_propagation == "rshared"


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"host_path": ""}, InvalidArgument, "host_path: '' is not an absolute path"),
        ({"host_path": "rel"}, InvalidArgument, "host_path: 'rel'"),
        ({"container_path": "rel"}, InvalidArgument, "container_path: 'rel'"),
        ({"container_path": "/a/../b"}, InvalidArgument, "container_path: .*'..'"),
        ({"recursive_read_only": True}, InvalidArgument, "recursive_read_only: conflicts with a writable"),
        (
            {"recursive_read_only": True, "readonly": True, "propagation": Propagation.HOST_TO_CONTAINER},
            InvalidArgument,
            "recursive_read_only: needs private",
        ),
        (
            {"recursive_read_only": True, "readonly": True, "propagation": Propagation.BIDIRECTIONAL},
            InvalidArgument,
            "recursive_read_only: needs private",
        ),
        ({"mount_options": ("suid",)}, InvalidArgument, "mount_options: 'suid' is not one of"),
        ({"mount_options": ("rshared",)}, InvalidArgument, "mount_options: 'rshared'"),
        ({"uid_mappings": (pod.IdMapping(length=1),)}, InvalidArgument, "uidMappings and gidMappings go together"),
        (mapped(pod.IdMapping()), InvalidArgument, r"uidMappings\[0\].length: 0"),
        (mapped(pod.IdMapping(host_id=5, length=2**32 - 4)), InvalidArgument, "reaches beyond the last id"),
        (mapped(*[pod.IdMapping(length=1)] * 341), InvalidArgument, "341 ranges, the kernel takes 340"),
        ({"image": pod.ImageSpec(image="i"), "host_path": ""}, InvalidArgument, "readonly: an image volume"),
        ({"image": pod.ImageSpec(image="i"), "readonly": True}, InvalidArgument, "host_path: given beside image"),
    ],
)
def test_mounts_that_are_refused(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    wanted = pod.Mount(**{"container_path": "/m", "host_path": "/s", **fields})
    with pytest.raises(error, match=rf"container c: mounts\[0\].*{words}"):
        build(config(mounts=(wanted,)))


def test_recursive_readonly_needs_the_kernel() -> None:
    wanted = pod.Mount(container_path="/m", host_path="/s", readonly=True, recursive_read_only=True)
    with pytest.raises(FailedPrecondition, match="this kernel, or the runtime handler, has no recursive"):
        build(config(mounts=(wanted,)), host=msgspec.structs.replace(HOST, recursive_readonly=False))


def test_id_mapped_mounts_carry_their_maps_and_need_the_kernel() -> None:
    one = pod.IdMapping(container_id=0, host_id=100000, length=65536)
    wanted = pod.Mount(container_path="/m", host_path="/s", **mapped(one))
    (made,) = [mount for mount in build(config(mounts=(wanted,))).spec.mounts if mount.destination == "/m"]
    assert made.uid_mappings == made.gid_mappings == (oci.IDMapping(container_id=0, host_id=100000, size=65536),)
    with pytest.raises(FailedPrecondition, match="uidMappings: this kernel, or the runtime handler, has no id-mapped"):
        build(config(mounts=(wanted,)), host=msgspec.structs.replace(HOST, idmapped_mounts=False))


def test_mount_options_hold_for_mounts_below_where_the_kernel_can() -> None:
    wanted = pod.Mount(container_path="/m", host_path="/s", readonly=True, mount_options=("noexec", "nodev"))

    def options(host: Host) -> tuple[str, ...]:
        built = build(config(mounts=(wanted,)), host=host)
        return next(mount.options for mount in built.spec.mounts if mount.destination == "/m")

    assert options(HOST) == ("rbind", "rprivate", "ro", "rnoexec", "rnodev")
    old = msgspec.structs.replace(HOST, recursive_readonly=False)
    assert options(old) == ("rbind", "rprivate", "ro", "noexec", "nodev")


def test_an_image_volume_is_a_tree_and_is_executable() -> None:
    volume = pod.Mount(container_path="/model/", image=pod.ImageSpec(image="m"), readonly=True)
    built = build(config(mounts=(volume,)))
    assert built.trees["/model"] == "image./model"
    (made,) = [mount for mount in built.spec.mounts if mount.destination == "/model"]
    assert made.options == ("rbind", "rprivate", "ro")
    assert built.host_directories == ()
    assert dict(image_mounts(config(mounts=(volume,)))) == {"/model": volume}


# ---- devices, resources, signals


def test_device_rules_follow_the_permissions() -> None:
    wanted = config(
        devices=(
            pod.Device(container_path="/dev/a", host_path="/dev/null", permissions="r"),
            pod.Device(container_path="/dev/many", host_path="/dev/dri", permissions=""),
        )
    )
    nodes = (
        oci.Device(path="/dev/a", type="c", major=1, minor=3),
        oci.Device(path="/dev/many/x", type="b", major=8, minor=1),
    )
    found = linux(wanted, devices=nodes)
    assert found.resources is not None
    rules = found.resources.devices
    assert rules[0] == oci.DeviceCgroup(allow=False, access="rwm")
    assert rules[-2:] == (
        oci.DeviceCgroup(allow=True, type="c", major=1, minor=3, access="r"),
        oci.DeviceCgroup(allow=True, type="b", major=8, minor=1, access="rwm"),
    )
    bad = config(devices=(pod.Device(container_path="/dev/a", host_path="/dev/null", permissions="x"),))
    with pytest.raises(InvalidArgument, match="permissions: 'x'"):
        build(bad, devices=nodes[:1])


def test_resources() -> None:
    wanted = pod.LinuxResources(
        cpu_period=100000,
        cpu_quota=50000,
        cpu_shares=512,
        memory_limit=1 << 20,
        oom_score_adj=-998,
        cpuset_cpus="0",
        hugepage_limits=(pod.HugepageLimit(page_size="2MB", limit=0),),
        unified={"memory.high": "5"},
    )
    spec = build(config(resources=wanted)).spec
    assert spec.linux is not None and spec.linux.resources is not None and spec.process is not None
    found = spec.linux.resources
    assert found.cpu == oci.CPU(period=100000, quota=50000, shares=512, cpus="0")
    # No swap limit given: no swap.
    assert found.memory == oci.Memory(limit=1 << 20, swap=1 << 20)
    assert found.hugepage_limits == (oci.HugepageLimit(page_size="2MB", limit=0),)
    assert found.unified == {"memory.high": "5"}
    assert spec.process.oom_score_adj == -998
    poor = linux(config(resources=wanted), host=msgspec.structs.replace(HOST, swap=False, hugetlb=False)).resources
    assert poor is not None
    assert (poor.memory, poor.hugepage_limits) == (oci.Memory(limit=1 << 20), ())
    with pytest.raises(FailedPrecondition, match="unified: this host has cgroup v1"):
        build(config(resources=wanted), host=msgspec.structs.replace(HOST, cgroup_v2=False))
    nothing = linux(config()).resources
    assert nothing is not None
    assert (nothing.cpu, nothing.memory) == (None, None)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("quit", 3),
        ("9", 9),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMAX-1", signal.SIGRTMAX - 1),
        ("SIGRTMIN-1", None),
        ("SIGRTMIN+99", None),
        ("RTMIN+x", None),
        ("0", None),
        ("99999", None),
        ("SIG_IGN", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_signals(text: str, number: int | None) -> None:
    assert parse_signal(text) == number


def test_precedence_of_the_stop_signal() -> None:
    image = ImageDefaults(stop_signal="SIGQUIT")
    assert stop_signal(config(stop_signal=10), image) == 10
    assert stop_signal(config(), image) == signal.SIGQUIT
    assert stop_signal(config(), ImageDefaults()) == signal.SIGTERM
    assert stop_signal(config(), ImageDefaults(stop_signal="nonsense")) == signal.SIGTERM


def test_labels_of_an_image_are_nowhere_in_the_spec() -> None:
    image = ImageDefaults(cmd=("x",), labels={"io.kubernetes.cri.sandbox-id": "forged", "org.systemd.property.X": "1"})
    spec = build(config(), image=image, sandbox_id="real").spec
    assert spec.annotations["io.kubernetes.cri.sandbox-id"] == "real"
    assert b"forged" not in oci.to_json(spec)
    assert b"org.systemd" not in oci.to_json(spec)
