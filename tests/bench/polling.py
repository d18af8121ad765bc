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

CALLS = 30
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


def answers(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is not grpc.StatusCode.UNIMPLEMENTED


async def polling(contestant: Contestant, pods: int) -> None:
    """Start the pods, measure each list and the round, end the pods."""
    lives = [life(contestant) for _ in range(pods)]
    await _limited([each.start() for each in lives])
    pids = [contestant.daemon.pid, *contestant.daemon.helpers()]
    for service, name in LISTS:
        await _one(contestant, pids, service, name, pods)
    contestant.note(f"kubelet's polling, {pods} pods (% of one CPU)", await _round(contestant, pids))
    await _limited([_end(each) for each in lives])


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


async def _one(contestant: Contestant, pids: list[int], service: str, name: str, pods: int) -> None:
    call = caller(contestant, service, name)
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        if answers(error):
            raise
        return  # the row stays empty: this runtime has no such call
    before = cpu_nanoseconds(pids)
    for _ in range(CALLS):
        begin = time.perf_counter()
        await call()
        contestant.note(f"{name}, {pods} pods", (time.perf_counter() - begin) * 1000)
    used = (cpu_nanoseconds(pids) - before) / CALLS
    contestant.note(f"{name}, {pods} pods: CPU", used / 1e6)


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
