"""Every test here gets a Box, and leaves no mount and no process behind: both are counted before and after."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.executor.harness import Box

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> None:
    """Orphans of a test become children of this process, where they can be seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


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
