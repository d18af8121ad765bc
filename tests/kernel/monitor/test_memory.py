"""Memory: of a container that exceeds its limit, and of the monitor itself (a budget is a test)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orlop.monitor.spawn import spawn_monitor
from tests.kernel.monitor.harness import VARIANT, Cgroups, PodUnderTest, binary

pytestmark = pytest.mark.kernel
MakeCgroups = Callable[..., Cgroups]
PSS_KB = 300
EAT = "x=a; while true; do x=$x$x; done"


def limited(make: MakeCgroups, megabytes: int) -> Cgroups:
    group = make()
    (group.memory / "memory.limit_in_bytes").write_text(str(megabytes << 20))
    return group


async def test_oom_kill_is_told_and_recorded(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    group = limited(cgroups, 16)
    await pod.run("c1", EAT, cgroups=group)
    event = await pod.exit_of("c1")
    record = pod.record("c1")
    assert record is not None
    assert (event.exit_code, event.oom_killed) == (137, True)
    assert (record.oom_killed, record.oom_kills) == (True, 1)
    assert (await pod.oom_of("c1")).count == 1


async def test_a_child_killed_for_memory_is_told_but_the_container_is_not_oom_killed(
    pod: PodUnderTest, cgroups: MakeCgroups
) -> None:
    group = limited(cgroups, 16)
    await pod.run("c1", f"sh -c '{EAT}'; read x; exit 0", cgroups=group, stdin=True)
    assert (await pod.oom_of("c1")).count == 1
    await pod.client.close_stdin("c1")
    event = await pod.exit_of("c1")
    record = pod.record("c1")
    assert record is not None
    assert (event.exit_code, event.oom_killed) == (0, False)
    assert (record.oom_killed, record.oom_kills) == (False, 1)


async def test_sigkill_is_no_oom(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    await pod.run("c1", "kill -9 $$; sleep 1000", cgroups=limited(cgroups, 64), shared=False, flags=0x00020000)
    event = await pod.exit_of("c1")
    assert (event.exit_code, event.oom_killed) == (137, False)


async def test_no_container_inherits_the_monitors_protection(pod: PodUnderTest) -> None:
    """Where the monitor may protect itself (CAP_SYS_RESOURCE) its children would inherit it."""
    own = Path("/proc/self/oom_score_adj").read_text()
    monitor = Path(f"/proc/{pod.pid}/oom_score_adj").read_text()
    assert monitor in ("-999\n", own)
    created = await pod.run("c1", "sleep 1000")
    assert Path(f"/proc/{created.pid}/oom_score_adj").read_text() == own
    Path(f"/proc/{created.pid}/oom_score_adj").write_text("500")
    reading = await pod.exec("e1", "c1", "read x < /proc/self/oom_score_adj; echo $x")
    await pod.exit_of("e1")
    with open(reading) as output:
        assert output.read() == ("500\n" if monitor == "-999\n" else own)


def pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")


@pytest.mark.skipif(VARIANT != "release", reason="a sanitizer's memory is not ours")
async def test_the_monitors_own_memory(pod: PodUnderTest) -> None:
    fresh = pss_kb(pod.pid)
    await pod.pod()
    for i in range(3):
        await pod.run(f"c{i}", "seq 200000; read x", stdin=True)
    for i in range(3):
        attached = await pod.client.attach(f"c{i}", stdin=True, stdout=False, stderr=False)
        attached.send(b"\n")
        attached.close()
    for i in range(3):
        await pod.exit_of(f"c{i}")
    await pod.run("living", "sleep 1000")
    used = pss_kb(pod.pid)
    print(f"\nPSS of a monitor alone: {fresh} kB fresh, {used} kB after three containers")
    assert used <= PSS_KB


async def test_a_monitor_is_started_quickly(pod: PodUnderTest, tmp_path: Path) -> None:
    """Best of ten, since the machine may be busy: the budget is 1.5 ms."""
    times = []
    for i in range(10):
        (tmp_path / f"quick{i}").mkdir()
        begun = time.perf_counter()
        client = await spawn_monitor("orlop-test", tmp_path / f"quick{i}", binary())
        times.append((time.perf_counter() - begun) * 1000)
        await client.shutdown(force=True)
        client.close()
    print(f"\nspawn_monitor: best {min(times):.2f} ms, worst {max(times):.2f} ms")
    assert min(times) < (1.5 if VARIANT == "release" else 100)
