"""RunPodSandbox, StopPodSandbox, RemovePodSandbox and recovery on the real kernel."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orlop.base import faults
from orlop.base.errors import AlreadyExists, Internal, InvalidArgument, NotFound
from orlop.services.node import Node
from orlop.services.sandboxes import run as run_module
from orlop.services.sandboxes.remove import remove_sandbox
from orlop.services.sandboxes.run import run_sandbox
from orlop.services.sandboxes.status import list_sandboxes, sandbox_status
from orlop.services.sandboxes.stop import stop_sandbox
from orlop.specs.pod import (
    NamespaceMode,
    NamespaceOptions,
    SandboxConfig,
    SandboxMetadata,
    SandboxSecurity,
    SandboxState,
)
from tests.cri.census import processes

pytestmark = pytest.mark.kernel
Restart = Callable[[], Awaitable[Node]]


def config(name: str = "web", **more: object) -> SandboxConfig:
    options = NamespaceOptions(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    fields: dict[str, object] = {"security": SandboxSecurity(namespaces=options), **more}
    return SandboxConfig(metadata=SandboxMetadata(name=name, uid="u1", namespace="ns"), **fields)  # type: ignore[arg-type]


def monitors(node: Node) -> set[int]:
    """The monitors of this node alone: their fd 3 is a pod's directory. Another test of the machine has others, which come and go."""
    return {int(each.split()[0]) for each in processes([str(node.state.state)]) if " orlop-monitor" in each}


async def test_a_pod_is_made_shown_stopped_and_removed(restart: Restart) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    node = await restart()
    sandbox_id = await run_sandbox(node, config(labels={"a": "b"}), "")
    pod = await sandbox_status(node, sandbox_id)
    assert pod.state is SandboxState.READY
    assert len(monitors(node)) == 1
    assert [each.id for each in await list_sandboxes(node, labels={"a": "b"})] == [sandbox_id]
    assert await list_sandboxes(node, labels={"a": "c"}) == []
    with pytest.raises(AlreadyExists, match=sandbox_id):
        await run_sandbox(node, config(), "")
    await stop_sandbox(node, sandbox_id)
    await stop_sandbox(node, sandbox_id)
    assert (await sandbox_status(node, sandbox_id)).state is SandboxState.NOTREADY
    await remove_sandbox(node, sandbox_id)
    await remove_sandbox(node, sandbox_id)
    with pytest.raises(NotFound):
        await sandbox_status(node, sandbox_id)
    assert os.listdir(node.state.pods) == []
    assert monitors(node) == set()
    assert Path("/proc/self/mountinfo").read_text() == mounts


async def test_a_pod_outlives_the_daemon(restart: Restart) -> None:
    sandbox_id = await run_sandbox(await restart(), config(), "orlop")
    node = await restart()
    assert (await sandbox_status(node, sandbox_id)).state is SandboxState.READY
    resolv = node.state.resolv_conf(sandbox_id)
    assert resolv.stat().st_mode & 0o777 == 0o644
    assert node.live.need(sandbox_id).shm_fd >= 0
    await remove_sandbox(node, sandbox_id)
    assert os.listdir(node.state.pods) == []


@pytest.mark.parametrize(
    "point", [run_module.ROW, run_module.DIRECTORY, run_module.MONITOR, run_module.NAMESPACES, run_module.CGROUP]
)
async def test_a_step_that_fails_leaves_nothing(restart: Restart, point: str) -> None:
    node = await restart()
    faults.arm(f"{point}=fail")
    with pytest.raises(Internal, match=point):
        await run_sandbox(node, config(), "")
    assert list(node.pods.sandboxes()) == []
    assert os.listdir(node.state.pods) == []
    assert monitors(node) == set()
    await remove_sandbox(node, await run_sandbox(node, config(), ""))


async def test_a_pod_whose_monitor_was_killed_is_not_ready_and_can_be_removed(restart: Restart) -> None:
    node = await restart()
    sandbox_id = await run_sandbox(node, config(), "")
    os.kill(node.pods.sandbox(sandbox_id).monitor_pid, 9)
    node = await restart()
    pod = await sandbox_status(node, sandbox_id)
    assert pod.state is SandboxState.NOTREADY
    assert "monitor" in pod.reason
    await remove_sandbox(node, sandbox_id)
    assert os.listdir(node.state.pods) == []


@pytest.mark.parametrize(
    ("wrong", "handler", "reason"),
    [
        ({}, "nope", "runtime_handler 'nope'"),
        ({"sysctls": {"net.ipv4.ip_forward": "1"}}, "", "host's network"),
        ({"cgroup_parent": "/../etc"}, "", "cgroup_parent"),
        (
            {"security": SandboxSecurity(namespaces=NamespaceOptions(network=NamespaceMode.TARGET))},
            "",
            "network must be POD or NODE",
        ),
    ],
)
async def test_a_wrong_config_is_refused_and_leaves_nothing(
    restart: Restart, wrong: dict[str, object], handler: str, reason: str
) -> None:
    node = await restart()
    with pytest.raises(InvalidArgument, match=reason):
        await run_sandbox(node, config(**wrong), handler)
    assert list(node.pods.sandboxes()) == []
    assert os.listdir(node.state.pods) == []
