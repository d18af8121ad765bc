"""Programs that the tests need and that are built from pinned sources: scripts/build-tools and scripts/build-busybox make them once."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("ORLOP_CACHE", TOP / ".cache"))


@cache
def _built(script: str) -> str:
    """Run a build script; return what went wrong, or an empty string."""
    done = subprocess.run([TOP / "scripts" / script], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{script}: {(done.stderr or done.stdout).strip()[-500:]}"


def tool(name: str) -> str:
    """Path of crictl, critest, cri-descriptor, nri-plugin or stream-client; skips the test, saying why, where it cannot be built."""
    if problem := _built("build-tools"):
        pytest.skip(problem)
    return str(CACHE / "tools" / name)


def busybox() -> Path:
    """Path of the busybox that the conformance images need."""
    if problem := _built("build-busybox"):
        pytest.skip(problem)
    return CACHE / "busybox" / "busybox"
