"""A node on the real kernel: own directories, own cgroup parent, the real monitor; pods use the host's network here."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from orlop.base.paths import RootPaths, StatePaths
from orlop.daemon.wiring import wire
from orlop.network.select import NetworkSelector
from orlop.services.images.parts import close_image_parts
from orlop.services.node import Node
from orlop.services.recovery import recover
from tests.cri.daemons import free_subnet
from tests.images.build import busybox_image, push
from tests.images.registry import Registry

IMAGE = "orlop/busybox:1"


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """Host and port of a real registry that has orlop/busybox:1."""
    with tempfile.TemporaryDirectory(prefix="orlop-registry-") as directory, Registry(Path(directory)) as running:
        push(running.host, "orlop/busybox", "1", busybox_image())
        yield running.host


async def close_node(node: Node) -> None:
    """What remains of a daemon that was killed: nothing in memory, everything on disk and in the monitors."""
    for pod in node.live:
        node.live.drop(pod.id)
    await node.supervisor.close()
    await close_image_parts(node.images)
    node.pods.close()
    node.monitor_program.close()
    node.cgroups.close()
    node.idmaps.close()


@pytest.fixture
async def restart() -> AsyncIterator[Callable[[], Awaitable[Node]]]:
    """Returns a function that gives a recovered node over the same directories each time, the one before dropped as by kill -9."""
    before = os.umask(0o077)
    base = Path(tempfile.mkdtemp(prefix="orlop-services-"))
    nodes: list[Node] = []
    # Recovery makes the built-in network; a name and a subnet of its own, so that it can be taken away again.
    bridge, subnet = f"orlt{secrets.token_hex(3)}", f"10.{free_subnet()}.0.0/16"

    async def start() -> Node:
        if nodes:
            await close_node(nodes.pop())
        root, state = RootPaths(root=base / "root"), StatePaths(state=base / "state")
        options = {"cgroup_parent": f"/orlop-test-{base.name[-8:]}", "bridge": bridge, "subnets": [subnet]}
        nodes.append(wire(root, state, registry_config_path=None, **options))
        await recover(nodes[0])
        return nodes[0]

    yield start
    if nodes:
        assert isinstance(nodes[0].network, NetworkSelector)
        await nodes[0].network.bridge.uninstall()
        await close_node(nodes.pop())
    shutil.rmtree(base)
    os.umask(before)
