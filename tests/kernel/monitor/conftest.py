"""Every test here gets a pod with a living monitor, and leaves no process, mount, cgroup or fd behind: they are counted before and after."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kernel.monitor.guard import guard
from tests.kernel.monitor.harness import SECONDS, Cgroups, PodUnderTest, binary


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


def reap_orphans() -> None:
    """What a monitor killed and did not reap before its own end is ours to reap, where this process is a subreaper or PID 1.

    Monitors themselves are the event loop's to reap.
    """
    for pid in children():
        with suppress(FileNotFoundError, ChildProcessError):
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            if rest.split()[0] == "Z" and "(orlop-monitor" not in name:
                os.waitpid(int(pid), os.WNOHANG)


def mounts(base: Path) -> list[str]:
    """Mounts that have to do with a test: others make and remove theirs meanwhile."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(base) in line]


@pytest.fixture
async def pod(tmp_path: Path, cgroups: Callable[..., Cgroups]) -> AsyncIterator[PodUnderTest]:
    """The monitor's pod; ended before the cgroups that its containers were in are removed."""
    binary()  # its copy stays open, and the guard stays: they are no leak of the first test
    guard()
    before, fds = children(), open_fds()
    pod = PodUnderTest(base=tmp_path)
    await pod.spawn()
    yield pod
    await pod.end()
    async with asyncio.timeout(SECONDS):
        while children() - before:  # the event loop reaps the monitor when its pidfd is readable
            await asyncio.sleep(0.002)
            reap_orphans()
    assert mounts(tmp_path) == []
    assert open_fds() == fds


@pytest.fixture
def cgroups() -> Iterator[Callable[..., Cgroups]]:
    made: list[Cgroups] = []

    def make(parent: Cgroups | None = None) -> Cgroups:
        if not Path("/sys/fs/cgroup/freezer").is_dir() or not Path("/sys/fs/cgroup/memory").is_dir():
            pytest.skip("no cgroup v1 freezer and memory hierarchies")
        made.append(Cgroups(parent))
        return made[-1]

    yield make
    for each in reversed(made):
        each.remove()
