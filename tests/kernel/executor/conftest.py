"""Every test here gets a Box, and leaves no mount and no process behind: both are counted before and after.

The tests run in a mount namespace of their own in which every mount is shared, as under systemd: whatever a container lets escape is seen, and
what others mount on this machine meanwhile is not.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.oci import kernelnames as k
from tests.kernel.executor.harness import Box

PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> None:
    """Orphans of a test become children of this process, where they can be seen."""
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def own_mounts() -> Iterator[None]:
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    cwd = os.getcwd()
    call("unshare", k.CLONE_NEWNS)
    call("mount", None, b"/", None, k.MS_PRIVATE | k.MS_REC, None)
    call("mount", None, b"/", None, k.MS_SHARED | k.MS_REC, None)
    yield
    call("setns", before, k.CLONE_NEWNS)
    os.close(before)
    os.chdir(cwd)


def children() -> list[str]:
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}" for pid in pids]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    mounts = Path("/proc/self/mountinfo").read_text()
    before = children()
    yield Box(base=tmp_path)
    assert children() == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
