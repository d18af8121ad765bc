"""Execs whose caller may die, or lets go: outputs that are held, terminals that hang up, gates that open late or never."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

from orlop.monitor.client import MonitorError
from orlop.oci import ops
from orlop.oci.codec import decode, encode
from orlop.oci.ops import make_plan
from tests.kernel.monitor.harness import PodUnderTest
from tests.kernel.monitor.test_exec import MakeCgroups, output

pytestmark = pytest.mark.kernel

COUNT = "i=0; while [ $i -lt 5000 ]; do echo 01234567890123456789; i=$((i+1)); done; echo > /tmp/done; "


async def test_a_held_output_outlives_the_caller(pod: PodUnderTest) -> None:
    await pod.run("c1", "sleep 1000")
    reading = await pod.exec("e1", "c1", COUNT + "sleep 1000", hold=True)
    os.read(reading, 10)
    pod.client.close()
    os.close(reading)
    await pod.reconnect()
    await pod.wait_for((pod.base / "root/tmp/done").exists)
    await pod.client.kill("e1", signal.SIGKILL)
    assert (await pod.exit_of("e1")).signal == signal.SIGKILL


async def test_a_held_output_is_the_callers_alone_while_it_lives(pod: PodUnderTest) -> None:
    await pod.run("c1", "sleep 1000")
    reading = await pod.exec("e1", "c1", "echo all; exit 3", hold=True)
    assert (await pod.exit_of("e1")).exit_code == 3
    assert output(reading) == b"all\n"


async def test_hang_up_breaks_the_pipe(pod: PodUnderTest) -> None:
    await pod.run("c1", "sleep 1000")
    reading = await pod.exec("e1", "c1", "while true; do echo x; done", hold=True)
    os.close(reading)
    await pod.client.hang_up("e1")
    assert (await pod.exit_of("e1")).signal == signal.SIGPIPE
    with pytest.raises(MonitorError):
        await pod.client.hang_up("c1")


async def test_last_words(pod: PodUnderTest) -> None:
    """Said when the caller's connection ends before the exec; not when the exec ends first, nor after hang_up."""
    await pod.run("c1", "sleep 1000")
    ends = {name: socket.socketpair() for name in ("dies", "ends", "hung", "full")}
    for name, script in (("dies", "sleep 1000"), ("ends", "sleep 0.1"), ("hung", "sleep 1000"), ("full", "sleep 1000")):
        os.close(await pod.exec(name, "c1", script, hold=True))
        await pod.client.last_words(name, ends[name][1].fileno(), b"not this")
        await pod.client.last_words(name, ends[name][1].fileno(), b"\0the monitor of " + name.encode())
    await pod.exit_of("ends")
    await pod.client.hang_up("hung")
    ends["full"][1].setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            ends["full"][1].send(bytes(4096))
    with pytest.raises(MonitorError):
        await pod.client.last_words("c1", ends["dies"][1].fileno(), b"x")
    pod.client.close()
    await pod.reconnect()
    for name, said in (("dies", b"\0the monitor of dies"), ("ends", b""), ("hung", b"")):
        ends[name][1].close()
        assert await asyncio.to_thread(ends[name][0].recv, 100) == said
        assert ends[name][0].recv(100) == b""
    for each in ("dies", "hung", "full"):
        await pod.client.kill(each, signal.SIGKILL)
        await pod.exit_of(each)
    for pair in ends.values():
        pair[0].close()
        pair[1].close()


def with_terminal(plan: bytes) -> bytes:
    found = list(decode(plan).ops)
    at = next(index for index, op in enumerate(found) if isinstance(op, ops.ChrootFd))
    return encode(make_plan([*found[:at], ops.Terminal(rows=24, cols=80), *found[at:]]))


@pytest.mark.parametrize("dies", [True, False], ids=["caller dies", "caller hangs up"])
async def test_a_held_terminal(pod: PodUnderTest, dies: bool) -> None:
    await pod.run("c1", "sleep 1000")
    script = f"trap 'echo > /tmp/hup; exit 4' HUP; {COUNT} while true; do sleep 0.01; done"
    started = await pod.client.exec("e1", "c1", with_terminal(pod.exec_plan("c1", script)), [], tty=True, hold=True)
    os.read(started.master_fd, 10)
    if dies:
        pod.client.close()
        os.close(started.master_fd)
        await pod.reconnect()
        await pod.wait_for((pod.base / "root/tmp/done").exists)
        assert not (pod.base / "root/tmp/hup").exists()
        await pod.client.hang_up("e1")
    else:
        os.close(started.master_fd)
        await pod.client.hang_up("e1")
    assert (await pod.exit_of("e1")).exit_code == 4
    assert (pod.base / "root/tmp/hup").exists()


def gated(plan: bytes) -> bytes:
    found = list(decode(plan).ops)
    return encode(make_plan([*found[:-1], ops.Gate(), found[-1]]))


async def test_an_exec_at_its_gate(pod: PodUnderTest, cgroups: MakeCgroups) -> None:
    await pod.run("c1", "sleep 1000")

    async def look() -> None:
        await pod.client.hello()
        assert [row.state for row in pod.client.containers if row.id == "e1"] == ["created"]
        assert not (pod.base / "root/tmp/ran").exists()

    started = await pod.client.exec("e1", "c1", gated(pod.exec_plan("c1", "echo > /tmp/ran; exit 6")), [], gate=look)
    assert started.pid > 1
    assert (await pod.exit_of("e1")).exit_code == 6
    assert (pod.base / "root/tmp/ran").exists()


async def test_a_gate_that_nobody_opens(pod: PodUnderTest) -> None:
    await pod.run("c1", "sleep 1000")

    async def refuse() -> None:
        raise KeyError("not today")

    for name in ("e1", "e2"):
        with pytest.raises(KeyError):
            await pod.client.exec(name, "c1", gated(pod.exec_plan("c1", "echo > /tmp/ran")), [], gate=refuse)
    await pod.client.remove("e1")
    pod.client.close()
    await pod.reconnect()

    async def gone() -> bool:
        await pod.client.hello()
        return [row.id for row in pod.client.containers] == ["c1"]

    for _ in range(100):
        if await gone():
            break
        await asyncio.sleep(0.05)
    assert await gone()
    assert not (pod.base / "root/tmp/ran").exists()
