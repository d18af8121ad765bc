"""Who a container's processes are and what they may: users, groups, ambient capabilities, limits, signals, a target's PID namespace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.base.paths import RootPaths
from orlop.snapshots.quota import ProjectQuotas
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import Pod, container_config, sandbox_config
from tests.cri.daemons import Daemon, Orlopd
from tests.cri.harness import Source
from tests.cri.test_pod import lines_of, wait_for

pytestmark = pytest.mark.cri
CONFIG = """
[runtime]
default_ulimits = ["nofile=500:900", "core=0"]
log_rate = "64Ki"
rootfs_size = "64Mi"
"""
NET_BIND, NET_RAW = 1 << 10, 1 << 13


class Configured(Orlopd):
    def write_config(self) -> None:
        super().write_config()
        with open(self.config_path, "a") as file:
            file.write(CONFIG)


@pytest.fixture(scope="module")
def orlopd(registry: Source) -> Iterator[Daemon]:
    with Configured(registry.certs_d) as daemon:
        scope = daemon.scope()
        before = scope.take()
        yield daemon
        daemon.remove_pods()
        assert scope.settle(before) == {}


def secured(name: str, **fields) -> cri.ContainerConfig:
    config = container_config(name)
    config.linux.security_context.CopyFrom(cri.LinuxContainerSecurityContext(**fields))
    return config


def status_lines(pod: Pod, container: str) -> dict[str, str]:
    """/proc/self/status: an exec is what the container's own process is."""
    text = pod.exec(container, "cat", "/proc/self/status").stdout.decode()
    return dict(line.split(":\t", 1) for line in text.splitlines())


def sets(pod: Pod, container: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in status_lines(pod, container).items() if name.startswith("Cap")}


# ---- users and capabilities


def test_ambient_capabilities_reach_a_user_who_is_not_root(pod):
    capabilities = cri.Capability(drop_capabilities=["ALL"], add_ambient_capabilities=["NET_BIND_SERVICE"])
    made = pod.launch(secured("ambient", run_as_user=cri.Int64Value(value=1000), capabilities=capabilities))
    found = sets(pod, made)
    assert found == {f"Cap{name}": NET_BIND for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    # What they are for: a port below 1024 in a network namespace whose limit is the usual one.
    assert pod.exec(made, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").stdout == b"1024\n"
    assert pod.exec(made, "nc", "-l", "-p", "80", "-w", "1").stderr == b"nc: timeout\n"
    plain = cri.Capability(drop_capabilities=["ALL"], add_capabilities=["NET_BIND_SERVICE"])
    without = pod.launch(secured("plain", run_as_user=cri.Int64Value(value=1000), capabilities=plain))
    assert sets(pod, without)["CapEff"] == 0
    answer = pod.exec(without, "nc", "-l", "-p", "80", "-w", "1")
    assert b"Permission denied" in answer.stderr


def test_no_capability_is_inheritable_or_ambient_unless_asked(pod, container):
    found = sets(pod, container)
    assert (found["CapInh"], found["CapAmb"]) == (0, 0)
    assert found["CapEff"] & NET_RAW


def test_an_unknown_ambient_capability_is_refused(pod):
    with pytest.raises(InvalidArgument, match="add_ambient_capabilities: unknown capability 'FLY'"):
        pod.create(secured("flying", capabilities=cri.Capability(add_ambient_capabilities=["FLY"])))


@pytest.mark.parametrize(
    ("policy", "groups"),
    [(cri.SupplementalGroupsPolicy.Merge, [1000, 1234, 50000]), (cri.SupplementalGroupsPolicy.Strict, [1000, 1234])],
)
def test_groups_of_the_image_are_added_only_by_merge(pod, policy, groups):
    wanted = secured(
        f"groups-{policy}",
        run_as_user=cri.Int64Value(value=1000),
        supplemental_groups=[1234],
        supplemental_groups_policy=policy,
    )
    made = pod.launch(wanted)
    assert [int(each) for each in status_lines(pod, made)["Groups"].split()] == groups
    user = pod.container_status(made).user.linux
    assert (user.uid, user.gid, list(user.supplemental_groups)) == (1000, 1000, groups)
    inside = pod.exec(made, "id", "-G").stdout.split()
    assert sorted(map(int, inside)) == groups


# ---- limits


def limits_of(pod: Pod, container: str) -> dict[str, tuple[str, str]]:
    text = pod.exec(container, "cat", "/proc/self/limits").stdout.decode()
    return {
        found[1]: (found[2], found[3])
        for line in text.splitlines()
        if (found := re.match(r"(Max .*?)\s{2,}(\S+)\s+(\S+)", line))
    }


def annotated(name: str, text: str) -> cri.ContainerConfig:
    return container_config(name, annotations={"orlop.dev/ulimits": text})


def test_limits_of_the_node_and_of_a_container(pod):
    plain = limits_of(pod, pod.launch(container_config("plain")))
    assert plain["Max open files"] == ("500", "900")
    assert plain["Max core file size"] == ("0", "0")
    chosen = limits_of(pod, pod.launch(annotated("chosen", "nofile=700:800,nproc=4000:5000")))
    assert chosen["Max open files"] == ("700", "800")
    assert chosen["Max processes"] == ("4000", "5000")
    assert chosen["Max core file size"] == ("0", "0")


def test_a_limit_for_one_container_of_a_pod(client, orlopd):
    config = sandbox_config(annotations={"ulimits.orlop.dev/one": "nofile=100", "orlop.dev/ulimits": "nofile=200"})
    config.linux.cgroup_parent = orlopd.cgroup_parent
    pod = Pod.run(client, config)
    try:
        for name, files in (("one", "100"), ("two", "200")):
            made = pod.launch(container_config(name, log_path=""))
            assert limits_of(pod, made)["Max open files"] == (files, files)
    finally:
        pod.remove()


def test_a_pod_cannot_raise_a_limit_of_the_node(pod):
    with pytest.raises(FailedPrecondition) as caught:
        pod.create(annotated("greedy", "nofile=1000"))
    assert str(caught.value) == (
        "container greedy: annotations[orlop.dev/ulimits]: nofile: 1000 is above the node's hard limit 900;"
        " runtime.default_ulimits sets that"
    )
    with pytest.raises(InvalidArgument, match=r"annotations\[orlop.dev/ulimits\]: 'many' is not NAME=SOFT"):
        pod.create(annotated("wrong", "many"))


def test_a_log_has_the_rate_of_the_node_and_tells_what_it_lost(pod):
    made = pod.launch(container_config("loud", ["sh", "-c", "seq 100000; echo end"]))
    wait_for(lambda: pod.container_status(made).state == cri.CONTAINER_EXITED, "it did not end")
    lines = lines_of(Path(pod.config.log_directory) / "loud.log")
    notes = [each for each in lines if each.startswith("orlop: ")]
    lost = sum(int(each.split()[1]) for each in notes)
    assert notes[-1].endswith("dropped: more than 65536 bytes a second")
    assert len(lines) - len(notes) + lost == 100001


def test_a_writable_layer_is_limited_or_the_limit_refused(pod, orlopd):
    """What the file system can is proven in tests/kernel/snapshots/test_quota.py; here: nobody is left in doubt."""
    missing = ProjectQuotas(RootPaths(root=orlopd.root)).missing()
    wanted = container_config("small", annotations={"orlop.dev/rootfs-size": "4Mi"})
    if missing:
        assert f"runtime.rootfs_size is ignored: {missing}" in orlopd.log_path.read_text()
        with pytest.raises(FailedPrecondition) as caught:
            pod.create(wanted)
        assert str(caught.value) == f"container small: annotations[orlop.dev/rootfs-size]: {missing}"
        assert pod.exec(pod.launch(container_config("plain")), "true").exit_code == 0
    else:
        made = pod.launch(wanted)
        answer = pod.exec(made, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=8", "conv=fsync")
        assert answer.exit_code != 0
    with pytest.raises(FailedPrecondition, match="rootfs-size"):
        pod.create(container_config("large", annotations={"orlop.dev/rootfs-size": "1Gi"}))


# ---- signals and namespaces


def test_the_stop_signal_of_the_config_goes_before_the_images(pod):
    trap = "trap 'echo usr1; exit 41' USR1; trap 'echo term; exit 42' TERM; echo ready; while :; do sleep 0.05; done"
    for signal, code in ((cri.SIGNAL_SIGUSR1, 41), (cri.SIGNAL_RUNTIME_DEFAULT, 42)):
        name = f"stopped-{code}"
        made = pod.launch(container_config(name, ["sh", "-c", trap], stop_signal=signal))
        wait_for(lambda: "ready" in lines_of(Path(pod.config.log_directory) / f"{name}.log"), "it is not ready")  # noqa: B023
        expected = signal or cri.SIGNAL_SIGTERM
        assert pod.container_status(made).stop_signal == expected
        pod.stop_container(made, timeout=20)
        assert pod.container_status(made).exit_code == code


def test_a_target_pid_namespace(pod):
    alone = secured("target", namespace_options=cri.NamespaceOption(pid=cri.CONTAINER))
    alone.command[:] = ["sleep", "12345"]
    target = pod.launch(alone)
    wanted = secured("debugger", namespace_options=cri.NamespaceOption(pid=cri.TARGET, target_id=target))
    debugger = pod.launch(wanted)
    seen = pod.exec(debugger, "ps").stdout.decode()
    assert re.search(r"^\s*1 .*sleep 12345", seen, re.MULTILINE), seen
    pod.remove_container(debugger)
    pod.stop_container(target)
    with pytest.raises(FailedPrecondition, match=f"target_id {target} does not run"):
        pod.create(wanted)
    other = Pod.run(pod.client, sandbox_config())
    try:
        with pytest.raises(InvalidArgument, match=f"target_id {target} is not in sandbox {other.id}"):
            other.create(wanted)
    finally:
        other.remove()
