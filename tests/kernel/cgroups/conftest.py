"""Drivers on the host's real hierarchies, processes in the cgroups that they make, and a count of what is left."""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orlop.kernel.cgroupfs import Hierarchy, discover_mounted
from orlop.oci.cgroups.handles import ContainerCgroup, ExecCgroup
from orlop.oci.cgroups.v1 import V1Driver
from orlop.oci.cgroups.v2 import V2Driver

TOP = "/orlop-test-cg"
DEFAULT = "/orlop-test-cg-default"
OWNER = "orlop-test-cg"
Start = Callable[..., "subprocess.Popen[bytes]"]


def left_over() -> list[str]:
    """Return the test cgroups that exist, in all hierarchies."""
    return [path for each in discover_mounted() for path in glob.glob(f"{glob.escape(each.mountpoint)}/orlop-test-cg*")]


def hierarchies() -> list[Hierarchy]:
    return [Hierarchy(each) for each in discover_mounted()]


def make_v1(owner: str = OWNER, **options: bool) -> V1Driver:
    return V1Driver(hierarchies(), owner=owner, default_parent=DEFAULT, **options)


def make_v2(owner: str = OWNER) -> V2Driver:
    unified = [each for each in discover_mounted() if each.version == 2]
    return V2Driver(Hierarchy(unified[0]), owner=owner, default_parent=DEFAULT)


def files(path: str, controller: str = "") -> Path:
    """Return a cgroup's directory in the hierarchy of a controller; "" is the unified one."""
    for each in discover_mounted():
        if controller in each.controllers or (each.version == 2 and not controller):
            return Path(each.mountpoint + path)
    raise AssertionError(f"no hierarchy of {controller}")


@pytest.fixture(autouse=True)
def _nothing_remains() -> Iterator[None]:
    assert left_over() == []
    yield
    assert left_over() == []


@pytest.fixture
def v1() -> Iterator[V1Driver]:
    if not any("memory" in each.controllers for each in discover_mounted() if each.version == 1):
        pytest.skip("this host has no v1 memory hierarchy")
    driver = make_v1()
    yield driver
    driver.remove_orphans(set(), set())
    while driver.sweep():
        pass
    driver.close()


@pytest.fixture
def v2() -> Iterator[V2Driver]:
    if not any(each.version == 2 for each in discover_mounted()):
        pytest.skip("this host has no unified hierarchy")
    root = files("/") / "cgroup.subtree_control"
    before = set(root.read_text().split())
    driver = make_v2()
    yield driver
    driver.remove_orphans(set(), set())
    while driver.sweep():
        pass
    driver.close()
    for controller in set(root.read_text().split()) - before:
        root.write_text(f"-{controller}")


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command inside a cgroup, as the launcher does: join by the fds, then exec."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(cgroup: ContainerCgroup | ExecCgroup, *command: str) -> subprocess.Popen[bytes]:
        def join() -> None:
            if cgroup.version == 1:
                for fd in cgroup.join_fds:
                    os.write(fd, b"0")
            if cgroup.clone_fd >= 0:
                door = os.open("cgroup.procs", os.O_WRONLY, dir_fd=cgroup.clone_fd)
                os.write(door, b"0")
                os.close(door)

        process = subprocess.Popen(command, preexec_fn=join, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: PLW1509
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=20)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
