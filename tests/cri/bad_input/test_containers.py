"""Containers that can't be: each is refused with the right code, naming the container, the field and the reason, and leaves nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, container_config

pytestmark = [pytest.mark.cri, pytest.mark.usefixtures("nothing_remains")]

MEMORY = 64 << 20


def resources(**fields: object) -> dict[str, object]:
    return {"linux": cri.LinuxContainerConfig(resources=cri.LinuxContainerResources(**fields))}


def security(**fields: object) -> dict[str, object]:
    context = cri.LinuxContainerSecurityContext(**fields)
    return {"linux": cri.LinuxContainerConfig(security_context=context)}


def number(value: int) -> cri.Int64Value:
    return cri.Int64Value(value=value)


def hugepages(size: str, limit: int = 1 << 21) -> dict[str, object]:
    return resources(hugepage_limits=[cri.HugepageLimit(page_size=size, limit=limit)])


def profile(path: str) -> cri.SecurityProfile:
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref=path)


def device(**fields: str) -> dict[str, object]:
    return {"devices": [cri.Device(**{"container_path": "/dev/x", "permissions": "r", **fields})]}


def volume(**fields: str) -> dict[str, object]:
    return {"mounts": [cri.Mount(**fields)]}


REFUSED: dict[str, tuple[dict[str, object], type[OrlopError], str]] = {
    # impossible resources
    "memory below what a launch needs": (
        resources(memory_limit_in_bytes=4096),
        InvalidArgument,
        "memory_limit_in_bytes 4096 is less than the 524288",
    ),
    "negative memory": (resources(memory_limit_in_bytes=-2), InvalidArgument, "memory_limit_in_bytes: -2 is not"),
    "swap below memory": (
        resources(memory_limit_in_bytes=MEMORY, memory_swap_limit_in_bytes=MEMORY // 2),
        InvalidArgument,
        "memory swap limit 33554432: is memory plus swap, so it must not be below the memory limit 67108864",
    ),
    "swap without memory": (
        resources(memory_swap_limit_in_bytes=MEMORY),
        InvalidArgument,
        "memory swap limit 67108864: given without a memory limit",
    ),
    "cpus that are not there": (resources(cpuset_cpus="4095"), InvalidArgument, r"cpuset\.cpus.* = 4095: "),
    "cpus that are no list": (resources(cpuset_cpus="a-b"), InvalidArgument, "cpuset cpus 'a-b': is not a list"),
    "cpus the wrong way round": (resources(cpuset_cpus="1-0"), InvalidArgument, r"cpuset\.cpus.* = 1-0: "),
    "memory nodes that are not there": (resources(cpuset_mems="63"), InvalidArgument, r"cpuset\.mems.* = 63: "),
    "negative shares": (resources(cpu_shares=-1), InvalidArgument, "cpu_shares: -1 is not between"),
    "a period too short": (resources(cpu_period=1, cpu_quota=1000), InvalidArgument, r"cpu\.(cfs_period_us|max) = 1"),
    "negative quota": (resources(cpu_quota=-5), InvalidArgument, "cpu_quota: -5 is not between"),
    "huge pages of no size": (hugepages("3MB"), InvalidArgument, "hugepage_limits: this kernel has no pages of '3MB'"),
    "huge pages of words": (hugepages("lots"), InvalidArgument, "hugepage_limits: this kernel has no pages of 'lots'"),
    "oom score": (resources(oom_score_adj=5000), InvalidArgument, "oom_score_adj: 5000 is not between -1000 and 1000"),
    "a cgroup file elsewhere": (
        resources(unified={"../x": "1"}),
        InvalidArgument,
        r"unified: '\.\./x' is not the name",
    ),
    # users and rights
    "user name": (
        security(run_as_username="nosuch"),
        InvalidArgument,
        "run_as_username: user 'nosuch' is not in the image's /etc/passwd",
    ),
    "negative uid": (security(run_as_user=number(-1)), InvalidArgument, "run_as_user: -1 is not between"),
    "uid of 64 bits": (security(run_as_user=number(1 << 40)), InvalidArgument, "run_as_user: 1099511627776 is not"),
    "group alone": (security(run_as_group=number(5)), InvalidArgument, "run_as_group: is given without run_as_user"),
    "negative group": (security(supplemental_groups=[-4]), InvalidArgument, r"supplemental_groups\[0\]: -4 is not"),
    "capability": (
        security(capabilities=cri.Capability(add_capabilities=["CAP_NOPE"])),
        InvalidArgument,
        "add_capabilities: unknown capability 'CAP_NOPE'",
    ),
    "seccomp profile that is not there": (
        security(seccomp=profile("/nonexistent.json")),
        InvalidArgument,
        "seccomp profile /nonexistent.json: No such file",
    ),
    "seccomp profile that is none": (
        security(seccomp=profile("/etc/passwd")),
        InvalidArgument,
        "seccomp profile .*JSON",
    ),
    "privileged in a pod that is not": (
        security(privileged=True),
        InvalidArgument,
        "privileged: its sandbox is not privileged",
    ),
    "pid namespace of nobody": (
        security(namespace_options=cri.NamespaceOption(pid=cri.TARGET, target_id="0" * 64)),
        NotFound,
        "namespace_options.target_id: container 0{64}: not found",
    ),
    "pid namespace of the node": (
        security(namespace_options=cri.NamespaceOption(pid=cri.NODE)),
        InvalidArgument,
        "namespace_options.pid: NODE",
    ),
    # paths
    "relative working directory": (
        {"working_dir": "a/b"},
        InvalidArgument,
        "working_dir: 'a/b' is not an absolute path",
    ),
    "working directory that is a file": (
        {"working_dir": "/etc/passwd"},
        InvalidArgument,
        "/etc/passwd: not a directory",
    ),
    "relative volume": (
        volume(host_path="x", container_path="/x"),
        InvalidArgument,
        r"mounts\[0\].host_path: 'x' is not",
    ),
    "volume on nothing": (
        volume(host_path="/tmp", container_path=""),
        InvalidArgument,
        r"mounts\[0\].container_path: is empty",
    ),
    "volume on the root": (volume(host_path="/tmp", container_path="/"), InvalidArgument, "cover the container's root"),
    "volume that climbs": (volume(host_path="/tmp", container_path="/a/../../b"), InvalidArgument, r"holds '\.\.'"),
    "volume over proc": (volume(host_path="/tmp", container_path="/proc"), InvalidArgument, "may be mounted on /proc"),
    "volume below a file": (
        volume(host_path="/etc/passwd/below", container_path="/x"),
        InvalidArgument,
        "host_path /etc/passwd/below: is not there and cannot be made: Not a directory",
    ),
    "volume in proc": (
        volume(host_path="/proc/nosuch", container_path="/x"),
        InvalidArgument,
        "host_path /proc/nosuch: is not there and cannot be made",
    ),
    "file on a directory": (
        volume(host_path="/etc/passwd", container_path="/etc"),
        InvalidArgument,
        "target /etc is a directory, but source /etc/passwd is none",
    ),
    "directory on a file": (
        volume(host_path="/tmp", container_path="/etc/passwd"),
        InvalidArgument,
        "target /etc/passwd is no directory, but source /tmp is",
    ),
    "volume below a file of the image": (
        volume(host_path="/tmp", container_path="/etc/passwd/x"),
        InvalidArgument,
        "target /etc/passwd/x: not a directory",
    ),
    "device that is not there": (
        device(host_path="/dev/nosuch"),
        InvalidArgument,
        r"devices\[0\].host_path: /dev/nosuch",
    ),
    "device that is none": (device(host_path="/etc/passwd"), InvalidArgument, "/etc/passwd is not a device"),
    "device permissions": (
        device(host_path="/dev/null", permissions="q"),
        InvalidArgument,
        r"devices\[0\].permissions: 'q'",
    ),
    "log elsewhere": ({"log_path": "../../x.log"}, InvalidArgument, r"log_path '\.\./\.\./x\.log' leaves"),
    # words
    "no command": ({"command": [""]}, InvalidArgument, r"args\[0\]: empty"),
    "command with a NUL": ({"command": ["sh\0x"]}, InvalidArgument, r"command\[0\]: contains a NUL"),
    "name of a variable": (
        {"envs": [cri.KeyValue(key="a=b", value=b"c")]},
        InvalidArgument,
        r"envs\[0\].key: 'a=b' contains '='",
    ),
    "value of a variable": (
        {"envs": [cri.KeyValue(key="A", value=b"\0")]},
        InvalidArgument,
        r"envs\[0\].value: contains",
    ),
    "image that is not here": ({"image": "no.such/image:1"}, NotFound, "image 'no.such/image:1' is not present"),
    "image that is none": ({"image": "NOT an image"}, InvalidArgument, "image reference 'NOT an image'"),
    "stop signal": ({"stop_signal": 999}, InvalidArgument, "stop_signal: 999 is not a signal"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_creation(case, client, shared_pod):
    fields, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words) as caught:
        shared_pod.create(container_config("bad", **fields))
    assert type(caught.value) is kind
    assert str(caught.value).startswith("container bad: ")
    assert not re.search(r"unexpected|Traceback|\.py", str(caught.value))


@pytest.mark.parametrize("what", ["selinux", "apparmor"])
def test_security_modules_that_the_host_lacks(what, client, shared_pod):
    if os.path.exists("/sys/fs/selinux/enforce" if what == "selinux" else "/sys/kernel/security/apparmor/profiles"):
        words = "profile|selinux"
    else:
        words = "this host has no (AppArmor|SELinux)"
    fields = {
        "selinux": {"selinux_options": cri.SELinuxOption(type="no_such_t")},
        "apparmor": {"apparmor": profile("no")},
    }
    with pytest.raises(OrlopError, match=words) as caught:
        shared_pod.create(container_config("bad", **security(**fields[what])))
    assert type(caught.value) in (FailedPrecondition, InvalidArgument)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["/no/such/command", "x"], 127, 'exec: "/no/such/command": no such file or directory'),
        (["nosuch"], 127, r'exec: "nosuch": executable file not found in \$PATH'),
        (["/etc/passwd/x"], 127, 'exec: "/etc/passwd/x": not a directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["true", "x" * 200_000], 128, 'exec: "/bin/true": argument list too long'),
    ],
)
def test_a_command_that_cannot_be_executed(command, code, words, client, shared_pod):
    """As in containerd the container is made, its start fails, and it has ended with a reason that `kubectl describe` shows."""
    container = shared_pod.create(container_config("bad", command))
    try:
        with pytest.raises(InvalidArgument, match=words):
            shared_pod.start(container)
        status = shared_pod.container_status(container)
        assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, code, "StartError")
        assert re.search(words, status.message)
        assert status.created_at <= status.started_at <= status.finished_at
        with pytest.raises(FailedPrecondition, match="cannot be started, it is exited"):
            shared_pod.start(container)
    finally:
        shared_pod.remove_container(container)


def test_execs_that_cannot_be(client, shared_pod):
    container = shared_pod.launch(container_config("good"))
    try:
        for command, words in (
            (["/no/such"], 'exec: "/no/such": no such file'),
            (["nosuch"], "not found in"),
            (["/etc/passwd"], "permission denied"),
        ):
            with pytest.raises(InvalidArgument, match=words):
                shared_pod.exec(container, *command)
        with pytest.raises(InvalidArgument, match="cmd is empty"):
            shared_pod.exec(container)
        with pytest.raises(NotFound, match="0123456789ab"):
            shared_pod.exec("0123456789ab", "true")
        assert shared_pod.exec(container, "echo", "alive").stdout == b"alive\n"
    finally:
        shared_pod.remove_container(container)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"memory_limit_in_bytes": -2}, "memory_limit_in_bytes: -2"),
        ({"cpuset_cpus": "4095"}, r"cpuset\.cpus.* = 4095"),
        ({"cpu_quota": 1, "cpu_period": 100_000}, r"cpu\.(cfs_quota_us|max) = 1"),
        ({"memory_limit_in_bytes": MEMORY, "cpuset_mems": "63"}, r"cpuset\.mems.* = 63"),
    ],
)
def test_an_update_that_is_impossible_changes_nothing(fields, words, client, shared_pod):
    limits = cri.LinuxContainerResources(memory_limit_in_bytes=MEMORY * 2, cpu_quota=50_000, cpu_period=100_000)
    container = shared_pod.launch(container_config("good", linux=cri.LinuxContainerConfig(resources=limits)))
    try:
        before = shared_pod.container_status(container).resources
        request = cri.UpdateContainerResourcesRequest(
            container_id=container, linux=cri.LinuxContainerResources(**fields)
        )
        with pytest.raises(InvalidArgument, match=words):
            client.runtime.UpdateContainerResources(request, timeout=CALL_SECONDS)
        assert shared_pod.container_status(container).resources == before
        answer = shared_pod.exec(container, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null")
        assert answer.stdout.strip() in (b"", str(MEMORY * 2).encode())
    finally:
        shared_pod.remove_container(container)


def test_what_is_gone_is_not_found(client, shared_pod):
    request = cri.CreateContainerRequest(pod_sandbox_id="f" * 64, config=container_config("bad"))
    with pytest.raises(NotFound, match="sandbox f{64}: not found"):
        client.runtime.CreateContainer(request, timeout=CALL_SECONDS)
    with pytest.raises(NotFound, match="container f{64}: not found"):
        shared_pod.start("f" * 64)
    with pytest.raises(InvalidArgument, match="container_id: is empty"):
        shared_pod.start("")


def test_a_volume_whose_link_leads_nowhere(client, shared_pod, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere" / "deep")
    fields = volume(host_path=str(link), container_path="/x")
    with pytest.raises(InvalidArgument, match=f"host_path {link}: is not there and cannot be made"):
        shared_pod.create(container_config("bad", **fields))
    assert os.listdir(tmp_path) == ["link"]
