"""A pod's /dev/shm: shared by its containers, the host's tree untouched, the same after a restart of the daemon; on old kernels too."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orlop.kernel.mntns import is_mount_namespace
from orlop.kernel.probe import Probe
from orlop.services.containers.create import create_container
from orlop.services.containers.start import start_container
from orlop.services.execs.exec_sync import exec_sync
from orlop.services.images.pull import pull_image
from orlop.services.node import Node
from orlop.services.sandboxes.remove import remove_sandbox
from orlop.services.sandboxes.run import run_sandbox
from orlop.specs.pod import ContainerConfig, ContainerMetadata, ContainerSecurity, ImageSpec
from tests.kernel.services.conftest import IMAGE
from tests.kernel.services.test_sandboxes import config

pytestmark = pytest.mark.kernel
Restart = Callable[[], Awaitable[Node]]


class OldKernel(Probe):
    """A kernel before 6.15."""

    def has(self, name: str) -> bool:
        return name != "clone_detached" and super().has(name)


@pytest.mark.parametrize("detached", [True, False])
async def test_containers_of_a_pod_share_it(restart: Restart, registry: str, tmp_path: Path, detached: bool) -> None:
    node = await restart()
    if detached and not node.probe.has("clone_detached"):
        pytest.skip("the kernel clones no detached mounts (before 6.15)")
    if not detached:
        node = dataclasses.replace(node, probe=OldKernel())
    image = f"{registry}/{IMAGE}"
    await pull_image(node.images, image)
    mounts = Path("/proc/self/mountinfo").read_text()
    sandbox = config(log_directory=str(tmp_path))
    sandbox_id = await run_sandbox(node, sandbox, "")
    assert is_mount_namespace(node.live.need(sandbox_id).shm_fd) is not detached

    async def container(name: str) -> str:
        made = await create_container(
            node,
            sandbox_id,
            ContainerConfig(
                metadata=ContainerMetadata(name=name),
                image=ImageSpec(image=image),
                command=("sleep", "1000"),
                security=ContainerSecurity(namespaces=sandbox.security.namespaces),
            ),
            None,
        )
        await start_container(node, made)
        return made

    async def said(container_id: str, script: str) -> str:
        result = await exec_sync(node, container_id, ("sh", "-c", script), 0)
        return result.stdout.decode().strip()

    first, second = await container("a"), await container("b")
    await said(first, "echo hello > /dev/shm/word")
    assert await said(second, "cat /dev/shm/word") == "hello"
    assert "nosuid,nodev,noexec" in await said(second, "grep ' /dev/shm ' /proc/self/mountinfo")
    assert await said(second, "wc -l < /proc/self/mountinfo") == await said(first, "wc -l < /proc/self/mountinfo")
    node = await restart()
    third = await container("c")
    assert await said(third, "cat /dev/shm/word") == "hello"
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not any(os.path.exists(f"/dev/shm/{name}") for name in ("word",))
    await remove_sandbox(node, sandbox_id)
    assert Path("/proc/self/mountinfo").read_text() == mounts
