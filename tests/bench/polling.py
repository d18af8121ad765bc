"""What kubelet asks for again and again, with many pods: latency and CPU of each list, and the CPU that its whole round takes.

Answers are taken as bytes, so that the client's parsing, the same for all, does not stand in the figures. CPU is the daemon's with that
of its helpers (shims, monitors), by the scheduler's own count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from orlop.specs.cri_gen import api_pb2 as cri
from tests.bench.rows import Contestant, Life, life
from tests.cri.client import CALL_SECONDS

CALLS = 10
TURNS = 5
SECONDS = 20
LISTS = (
    ("RuntimeService", "ListPodSandbox"),
    ("RuntimeService", "ListContainers"),
    ("RuntimeService", "ListContainerStats"),
    ("RuntimeService", "ListPodSandboxStats"),
    ("RuntimeService", "ListPodSandboxMetrics"),
)
EVERY_SECOND = (("RuntimeService", "ListPodSandbox"), ("RuntimeService", "ListContainers"))
EVERY_FIVE = (("RuntimeService", "Status"),)
EVERY_TEN = (
    ("RuntimeService", "ListContainerStats"),
    ("RuntimeService", "ListPodSandboxStats"),
    ("ImageService", "ImageFsInfo"),
    ("ImageService", "ListImages"),
)


def cpu_nanoseconds(pids: list[int]) -> int:
    """CPU time of all threads of some processes so far."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return total


def caller(contestant: Contestant, service: str, name: str) -> Callable[[], Awaitable[bytes]]:
    call = contestant.client.channel.unary_unary(f"/runtime.v1.{service}/{name}")
    request = getattr(cri, f"{name}Request")().SerializeToString()
    return lambda: call(request, timeout=CALL_SECONDS)


async def polling(contestants: list[Contestant], pods: int) -> None:
    """Start the pods of all, measure each list and the whole round in turns, end the pods."""
    lives = {each.name: [life(each) for _ in range(pods)] for each in contestants}
    for each in contestants:
        await _limited([pod.start() for pod in lives[each.name]])
    pids = {each.name: [each.daemon.pid, *each.daemon.helpers()] for each in contestants}
    for service, name in LISTS:
        able = [each for each in contestants if await _has(each, service, name)]
        for turn in range(TURNS):
            for each in able[turn % len(able) :] + able[: turn % len(able)]:
                await _block(each, pids[each.name], service, name, pods)
    for each in contestants:
        each.note(f"kubelet's polling, {pods} pods (% of one CPU)", await _round(each, pids[each.name]))
    for each in contestants:
        await _limited([_end(pod) for pod in lives[each.name]])


async def _end(each: Life) -> None:
    await each.stop()


async def _limited(jobs: list[Any], limit: int = 4) -> None:
    gate = asyncio.Semaphore(limit)

    async def one(job: Any) -> None:
        async with gate:
            await job

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(one(job))


async def _has(contestant: Contestant, service: str, name: str) -> bool:
    """Call once, to warm it up. A runtime without the call has an empty row."""
    try:
        await caller(contestant, service, name)()
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return False
        raise
    return True


async def _block(contestant: Contestant, pids: list[int], service: str, name: str, pods: int) -> None:
    """Some calls one after the other: reading the CPU of a hundred shims between any two would be most of the work."""
    call = caller(contestant, service, name)
    before = cpu_nanoseconds(pids)
    for _ in range(CALLS):
        begin = time.perf_counter()
        await call()
        contestant.note(f"{name}, {pods} pods", (time.perf_counter() - begin) * 1000)
    contestant.note(f"{name}, {pods} pods: CPU", (cpu_nanoseconds(pids) - before) / CALLS / 1e6)


async def _round(contestant: Contestant, pids: list[int]) -> float:
    """As kubelet asks: pods and containers every second, the runtime's state every five, figures every ten."""
    every = [(1, caller(contestant, *each)) for each in EVERY_SECOND]
    every += [(5, caller(contestant, *each)) for each in EVERY_FIVE]
    every += [(10, caller(contestant, *each)) for each in EVERY_TEN]
    before, begin = cpu_nanoseconds(pids), time.perf_counter()
    for second in range(SECONDS):
        for period, call in every:
            if second % period == 0:
                await call()
        await asyncio.sleep(max(0.0, begin + second + 1 - time.perf_counter()))
    return (cpu_nanoseconds(pids) - before) / (time.perf_counter() - begin) / 1e7
