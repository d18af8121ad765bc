"""Every test here gets a pod with a living monitor, and leaves no process, mount, cgroup or fd behind: they are counted before and after."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.monitor.harness import Cgroups, PodUnderTest


def open_fds() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return {name: target for name, target in found.items() if not target.startswith(("anon_inode:[event", "socket:"))}


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[PodUnderTest]:
    mounts, before, fds = Path("/proc/self/mountinfo").read_text(), children(), open_fds()
    pod = PodUnderTest(base=tmp_path)
    await pod.spawn()
    yield pod
    await pod.end()
    async with asyncio.timeout(5):
        while children() != before:  # the event loop reaps the monitor when its pidfd is readable
            await asyncio.sleep(0.002)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert open_fds() == fds


@pytest.fixture
def cgroups() -> Iterator[Callable[..., Cgroups]]:
    made: list[Cgroups] = []

    def make(parent: Cgroups | None = None) -> Cgroups:
        made.append(Cgroups(parent))
        return made[-1]

    if not Path("/sys/fs/cgroup/freezer").is_dir() or not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("no cgroup v1 freezer and memory hierarchies")
    yield make
    for each in reversed(made):
        each.remove()
