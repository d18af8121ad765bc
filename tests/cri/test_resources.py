"""Limits over CRI: as asked in the cgroup, as asked in the status; swap, huge pages, the unified map, pod-level resources, sysctls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, Pod, container_config, sandbox_config

pytestmark = pytest.mark.cri
V2 = not Path("/sys/fs/cgroup/memory").is_dir()
MIB = 1 << 20


def limited(name: str, **resources) -> cri.ContainerConfig:
    config = container_config(name)
    config.linux.resources.CopyFrom(cri.LinuxContainerResources(**resources))
    return config


def seen(pod: Pod, container: str, v1: str, v2: str) -> str:
    """What the container's own cgroup says, seen from inside."""
    file = v2 if V2 else v1.partition(".")[0] + "/" + v1
    path = f"/sys/fs/cgroup/{file}"
    answer = pod.exec(container, "cat", path)
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout.decode().strip()


def swap_of(pod: Pod, container: str) -> str:
    return seen(pod, container, "memory.memsw.limit_in_bytes", "memory.swap.max")


def test_limits_are_in_the_cgroup_and_in_the_status(pod):
    asked = {
        "cpu_period": 50_000,
        "cpu_quota": 25_000,
        "cpu_shares": 512,
        "memory_limit_in_bytes": 64 * MIB,
        "oom_score_adj": 900,
        "cpuset_cpus": "0",
        "cpuset_mems": "0",
        "hugepage_limits": [cri.HugepageLimit(page_size="2MB"), cri.HugepageLimit(page_size="1GB")],
    }
    made = pod.launch(limited("limits", **asked))
    assert seen(pod, made, "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert seen(pod, made, "cpuset.cpus", "cpuset.cpus") == "0"
    if V2:
        assert seen(pod, made, "", "cpu.max") == "25000 50000"
    else:
        assert seen(pod, made, "cpu.cfs_quota_us", "") == "25000"
        assert seen(pod, made, "cpu.shares", "") == "512"
    assert pod.exec(made, "cat", "/proc/self/oom_score_adj").stdout == b"900\n"
    assert pod.container_status(made).resources.linux == cri.LinuxContainerResources(**asked)


@pytest.mark.parametrize(
    ("swap", "v1", "v2"),
    [
        (0, str(64 * MIB), "0"),  # nothing said: a container with a limit may not swap
        (64 * MIB, str(64 * MIB), "0"),
        (96 * MIB, str(96 * MIB), str(32 * MIB)),
        (-1, str((1 << 63) - 4096), "max"),
    ],
)
def test_swap(pod, swap, v1, v2):
    made = pod.launch(limited(f"swap-{swap}", memory_limit_in_bytes=64 * MIB, memory_swap_limit_in_bytes=swap))
    assert swap_of(pod, made) == (v2 if V2 else v1)


@pytest.mark.parametrize(
    ("resources", "error", "words"),
    [
        (
            {"memory_limit_in_bytes": 64 * MIB, "memory_swap_limit_in_bytes": 32 * MIB},
            InvalidArgument,
            "memory swap limit 33554432: is memory plus swap, so it must not be below the memory limit 67108864",
        ),
        ({"memory_swap_limit_in_bytes": 32 * MIB}, InvalidArgument, "given without a memory limit"),
        ({"memory_limit_in_bytes": 4096}, InvalidArgument, "memory_limit_in_bytes 4096 is less than"),
        ({"cpuset_cpus": "4095"}, InvalidArgument, "cpuset.cpus = 4095"),
        (
            {"hugepage_limits": [cri.HugepageLimit(page_size="2 MB", limit=1)]},
            InvalidArgument,
            "this kernel has no pages of '2 MB'",
        ),
        ({"unified": {"memory/high": "1"}}, InvalidArgument, "config.linux.resources.unified: 'memory/high' is not"),
        (
            {"unified": {"no.such": "1"}} if V2 else {"unified": {"memory.high": "1"}},
            InvalidArgument if V2 else FailedPrecondition,
            "no.such" if V2 else "resources.unified: this host has cgroup v1",
        ),
    ],
)
def test_limits_that_are_refused(pod, resources, error: type[OrlopError], words):
    with pytest.raises(error) as caught:
        pod.create(limited("refused", **resources))
    assert words in str(caught.value)
    if not words.startswith("config."):
        assert str(caught.value).startswith("container ")
    assert not pod.client.runtime.ListContainers(cri.ListContainersRequest()).containers


if V2:  # the unified map is of the unified hierarchy; elsewhere it is refused, see above

    def test_unified(pod):
        made = pod.launch(limited("unified", unified={"memory.high": str(48 * MIB), "memory.oom.group": "1"}))
        assert seen(pod, made, "", "memory.high") == str(48 * MIB)
        assert dict(pod.container_status(made).resources.linux.unified)["memory.high"] == str(48 * MIB)


def test_an_update_changes_what_it_names_and_shows_it(pod):
    made = pod.launch(limited("resized", memory_limit_in_bytes=64 * MIB, cpu_shares=512))
    pod.client.runtime.UpdateContainerResources(
        cri.UpdateContainerResourcesRequest(
            container_id=made, linux=cri.LinuxContainerResources(memory_limit_in_bytes=96 * MIB)
        ),
        timeout=CALL_SECONDS,
    )
    assert seen(pod, made, "memory.limit_in_bytes", "memory.max") == str(96 * MIB)
    assert swap_of(pod, made) == ("0" if V2 else str(96 * MIB))
    shown = pod.container_status(made).resources.linux
    assert (shown.memory_limit_in_bytes, shown.cpu_shares) == (96 * MIB, 512)


def test_an_update_of_memory_alone_keeps_the_swap_that_was_asked_for(pod):
    made = pod.launch(limited("swapping", memory_limit_in_bytes=64 * MIB, memory_swap_limit_in_bytes=96 * MIB))
    for memory, v1, v2 in ((80, 96, 16), (128, 128, 0)):
        pod.client.runtime.UpdateContainerResources(
            cri.UpdateContainerResourcesRequest(
                container_id=made, linux=cri.LinuxContainerResources(memory_limit_in_bytes=memory * MIB)
            ),
            timeout=CALL_SECONDS,
        )
        assert swap_of(pod, made) == str((v2 if V2 else v1) * MIB)


# ---- pods


def pod_with(orlopd, **linux) -> cri.PodSandboxConfig:
    config = sandbox_config()
    config.linux.CopyFrom(cri.LinuxPodSandboxConfig(cgroup_parent=orlopd.cgroup_parent, **linux))
    return config


def test_resources_of_a_pod_are_kept_and_told(client, orlopd):
    resources = cri.LinuxContainerResources(cpu_shares=100, memory_limit_in_bytes=256 * MIB)
    overhead = cri.LinuxContainerResources(memory_limit_in_bytes=8 * MIB)
    pod = Pod.run(client, pod_with(orlopd, resources=resources, overhead=overhead))
    try:
        orlopd.kill()
        orlopd.start()
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
        info = json.loads(client.runtime.PodSandboxStatus(request, timeout=CALL_SECONDS).info["info"])
        assert info["config"]["linux"]["resources"] == {"cpu_shares": "100", "memory_limit_in_bytes": str(256 * MIB)}
        assert info["config"]["linux"]["overhead"] == {"memory_limit_in_bytes": str(8 * MIB)}
    finally:
        pod.remove()


def test_sysctls_safe_and_unsafe_are_the_pods_own(client, orlopd):
    before = Path("/proc/sys/kernel/shm_rmid_forced").read_text()
    sysctls = {
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "100",
        "net.ipv4.ip_unprivileged_port_start": "80",
        "net/core/somaxconn": "77",
    }
    pod = Pod.run(client, pod_with(orlopd, sysctls=sysctls))
    try:
        made = pod.launch(container_config("main", log_path=""))
        for key, value in sysctls.items():
            path = "/proc/sys/" + key.replace(".", "/")
            assert pod.exec(made, "cat", path).stdout.decode().strip() == value
    finally:
        pod.remove()
    assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == before


@pytest.mark.parametrize(
    ("sysctls", "network", "words"),
    [
        ({"kernel.panic": "1"}, cri.POD, "sysctls[kernel.panic]: is not in a namespace; it would change the host"),
        ({"vm.swappiness": "1"}, cri.POD, "sysctls[vm.swappiness]: is not in a namespace"),
        ({"net.core.somaxconn": "1"}, cri.NODE, "sysctls[net.core.somaxconn]: would change the host's network"),
        ({"net.core.somaxconn": "1\n2"}, cri.POD, "linux.sysctls[net.core.somaxconn]"),
        ({"net.ipv4/../../kernel/panic": "1"}, cri.POD, "is not a sysctl"),
        ({"net.core.somaxconn": "many"}, cri.POD, 'sysctls: net/core/somaxconn = "many": invalid argument'),
        ({"net.core.no_such": "1"}, cri.POD, 'sysctls: net/core/no_such = "1": no such file or directory'),
    ],
)
def test_sysctls_that_are_refused(client, orlopd, sysctls, network, words):
    config = pod_with(orlopd, sysctls=sysctls)
    config.linux.security_context.namespace_options.network = network
    with pytest.raises(InvalidArgument) as caught:
        Pod.run(client, config)
    assert words in str(caught.value)
    assert not client.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
