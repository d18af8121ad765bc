"""What a removal had to leave is collected while the daemon runs: exec cgroups with processes in them, layers of removed images."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orlop.services import gc
from orlop.services.containers.create import create_container
from orlop.services.containers.remove import remove_container
from orlop.services.containers.start import start_container
from orlop.services.execs.exec_sync import exec_sync
from orlop.services.images.pull import pull_image
from orlop.services.images.remove import remove_image
from orlop.services.node import Node
from orlop.services.sandboxes.remove import remove_sandbox
from orlop.services.sandboxes.run import run_sandbox
from orlop.specs.pod import ContainerConfig, ContainerMetadata, ContainerSecurity, ImageSpec
from tests.kernel.services.conftest import IMAGE
from tests.kernel.services.test_containers import HOST_NETWORK
from tests.kernel.services.test_sandboxes import config

pytestmark = pytest.mark.kernel
Restart = Callable[[], Awaitable[Node]]


async def create(node: Node, sandbox: str, image: str, name: str) -> str:
    wanted = ContainerConfig(
        metadata=ContainerMetadata(name=name),
        image=ImageSpec(image=image),
        command=("sleep", "1000"),
        security=ContainerSecurity(namespaces=HOST_NETWORK.namespaces),
    )
    return await create_container(node, sandbox, wanted, None)


def exec_cgroups(container: str) -> list[Path]:
    return [each for each in Path("/sys/fs/cgroup").glob(f"**/{container}/*") if each.is_dir()]


async def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(what)


async def test_what_lingers_is_swept_without_another_call(restart: Restart, registry: str, monkeypatch) -> None:
    monkeypatch.setattr(gc, "IDLE_SECONDS", 0.02)
    node = await restart()
    node.supervisor.spawn("sweep cgroups", gc.sweep_cgroups(node))
    image = f"{registry}/{IMAGE}"
    await pull_image(node.images, image)
    sandbox = await run_sandbox(node, config(), "")
    container = await create(node, sandbox, image, "c")
    await start_container(node, container)
    left = await exec_sync(node, container, ("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"), 0)
    assert exec_cgroups(container), "the process that the exec left has its cgroup"
    await exec_sync(node, container, ("kill", "-9", left.stdout.decode().strip()), 0)
    await until(lambda: exec_cgroups(container) == [], "the cgroup stayed after its last process")
    await remove_sandbox(node, sandbox)


async def test_layers_go_with_the_last_container_of_a_removed_image(restart: Restart, registry: str) -> None:
    node = await restart()
    image = f"{registry}/{IMAGE}"
    await pull_image(node.images, image)
    sandbox = await run_sandbox(node, config(), "")
    first, second = [await create(node, sandbox, image, name) for name in ("one", "two")]
    await remove_image(node.images, image)
    assert os.listdir(node.root.layers), "a container uses them"
    await start_container(node, second)
    await remove_container(node, first)
    assert (await exec_sync(node, second, ("echo", "here"), 0)).stdout == b"here\n"
    await remove_container(node, second)
    assert os.listdir(node.root.layers) == []
    # Pulled again, it is whole.
    await pull_image(node.images, image)
    await create(node, sandbox, image, "three")
    await remove_sandbox(node, sandbox)


@pytest.mark.parametrize("away", [False, True])
async def test_an_exit_whose_record_cannot_be_written_is_not_lost(restart: Restart, registry: str, away: bool) -> None:
    """A full state directory: the monitor's word counts, while the daemon is there and when it was away at that moment."""
    node = await restart()
    image = f"{registry}/{IMAGE}"
    await pull_image(node.images, image)
    sandbox = await run_sandbox(node, config(), "")
    container = await create(node, sandbox, image, "c")
    await start_container(node, container)
    row = node.pods.container(container)
    # Where the record is written first; a directory in its place is as good as no room.
    (node.state.pod(sandbox) / f".{container}.exit.tmp").mkdir()
    if away:
        for pod in node.live:
            node.live.drop(pod.id)
    os.kill(row.pid, 9)
    await until(lambda: not os.path.exists(f"/proc/{row.pid}"), "it did not end")
    if away:
        node = await restart()
    await until(lambda: node.pods.container(container).finished_at != 0, "its exit was lost")
    row = node.pods.container(container)
    assert (row.exit_code, row.reason) == (137, "Error")
    assert not node.state.exit_record(row.sandbox_id, row.id).exists()
    await remove_sandbox(node, sandbox)
