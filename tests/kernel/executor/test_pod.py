"""Pod plans: the monitor's own namespaces, and the built-in init of a shared PID namespace."""

from __future__ import annotations

import errno
import os

import pytest

from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import Op
from tests.kernel.executor.harness import Box, container

pytestmark = pytest.mark.kernel

POD: tuple[Op, ...] = (
    ops.PodUnshare(flags=k.CLONE_NEWNET | k.CLONE_NEWIPC | k.CLONE_NEWUTS),
    ops.PodHostname(name="pod"),
    ops.PodLoopbackUp(),
    ops.PodSysctl(key="net/ipv4/ip_forward", value="1"),
    ops.PodSysctl(key="kernel/shmmni", value="99"),
)
SHARED = (*POD, ops.PodInit())


def shared(*verbs: str) -> list[Op]:
    return container(*verbs, flags=k.CLONE_NEWNS, spawn=(ops.JoinPodInit(),))


def test_containers_are_born_into_the_pods_namespaces(box: Box) -> None:
    verbs = ("names", "cat", "/proc/sys/net/ipv4/ip_forward", "cat", "/proc/sys/kernel/shmmni", "cat", "/proc/net/dev")
    outcome = box.run(container(*verbs, flags=k.CLONE_NEWNS | k.CLONE_NEWPID), pod=POD)
    assert outcome.out.startswith("names: pod ")
    assert outcome.out.splitlines()[1:3] == ["1", "99"]
    assert [line.split(":")[0].strip() for line in outcome.out.splitlines() if ":" in line][1:] == ["lo"]
    assert os.uname().nodename != "pod"


def test_built_in_init(box: Box) -> None:
    verbs = ("id", "cat", "/proc/1/comm", "cat", "/proc/1/status", "ls", "/proc/1/fd", "readlink", "/proc/1/exe")
    outcome = box.run(shared(*verbs), pod=SHARED)
    assert "pid=2 ppid=0" in outcome.line("id:")
    assert "orlop:pod-init" in outcome.out
    assert outcome.line("CapPrm:").split()[1] == "0" * 16
    assert outcome.line("CapBnd:").split()[1] == "0" * 16
    assert outcome.line("NoNewPrivs:").split()[1] == "1"
    assert outcome.line("/proc/1/fd:") == "/proc/1/fd:"
    assert outcome.event("pod")["end"] if outcome.event("pod").get("end") else True
    assert outcome.events[-1] == ("pod", {"end": "0"})


def test_built_in_init_sees_an_empty_root(box: Box) -> None:
    """A container with CAP_SYS_PTRACE in the shared PID namespace reaches nothing of the host through /proc/1/root."""
    outcome = box.run(shared("ls", "/proc/1/root", "cat", "/proc/1/mountinfo", "ls", "/proc/1/root/etc"), pod=SHARED)
    assert outcome.line("/proc/1/root:") == "/proc/1/root:"
    assert len([line for line in outcome.out.splitlines() if " - " in line]) == 1
    assert "No such file" in outcome.line("/proc/1/root/etc:")


def test_orphans_go_to_the_built_in_init_and_are_reaped(box: Box) -> None:
    outcome = box.run(shared("orphan"), pod=SHARED)
    assert outcome.line("orphan:").split()[2] == "1"
    assert "orphan: reaped" in outcome.out


def test_container_cannot_end_the_built_in_init(box: Box) -> None:
    verbs = ("kill", "1", "15", "kill", "1", "9", "kill", "1", "2", "orphan", "cat", "/proc/1/comm")
    outcome = box.run(shared(*verbs), pod=SHARED)
    assert "orphan: reaped" in outcome.out
    assert "orlop:pod-init" in outcome.out


def test_errors(box: Box) -> None:
    def failed(*pod: Op) -> tuple[str, int, str]:
        values = box.run(container("exit", "0"), pod=pod).event("pod_failed")
        return values["op"], int(values["errno"]), values["detail"]

    unshare = POD[0]
    assert failed(unshare, ops.PodSysctl(key="kernel/nothere", value="1")) == (
        "pod_sysctl",
        errno.ENOENT,
        'kernel/nothere = "1"',
    )
    assert failed(unshare, ops.PodHostname(name="x" * 65))[:2] == ("pod_hostname", errno.EINVAL)
    assert failed(ops.PodUnshare(flags=1))[:2] == ("pod_unshare", errno.EINVAL)
