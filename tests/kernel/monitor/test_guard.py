"""A test run that is killed in the middle leaves neither its monitor nor what runs in its containers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.executor.harness import ROOT
from tests.kernel.monitor.guard import start_time

pytestmark = pytest.mark.kernel

ABORTED = """
import asyncio, os, signal, sys
from pathlib import Path
from orlop.oci import kernelnames as k
from tests.kernel.monitor.guard import start_time
from tests.kernel.monitor.harness import PodUnderTest

async def main():
    pod = PodUnderTest(base=Path(sys.argv[1]))
    await pod.spawn()
    own = await pod.run("own", "sleep 1000 & sleep 1000 & wait")
    hosts = await pod.run("hosts", "sleep 1000 & wait", flags=k.CLONE_NEWNS)
    orphan = await pod.run("orphan", "sleep 1000", flags=k.CLONE_NEWNS)
    await pod.wait_for(lambda: Path(f"/proc/{hosts.pid}/task/{hosts.pid}/children").read_text())
    child = int(Path(f"/proc/{hosts.pid}/task/{hosts.pid}/children").read_text().split()[0])
    for pid in (pod.pid, own.pid, hosts.pid, child, orphan.pid):
        print(pid, start_time(pid), flush=True)
    if sys.argv[2] == "monitor":
        os.kill(pod.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize("first", ["tests", "monitor"])
def test_nothing_outlives_an_aborted_run(tmp_path: Path, first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABORTED, tmp_path, first],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -9
    made = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(made) == 5

    def left() -> list[int]:
        """Zombies are only waiting for a parent that reaps."""
        found = []
        for pid, started in made:
            if start_time(pid) == started and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
                found.append(pid)
        return found

    deadline = time.monotonic() + 20
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left() == []
