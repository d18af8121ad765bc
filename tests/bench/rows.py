"""What is measured: each row is a function from a contestant to samples; the contestants take turns inside every row.

Times are the client's: from the call to its answer. One asynchronous CRI client drives all runtimes with the same messages.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.census import proportional_bytes
from tests.cri.client import CALL_SECONDS, AsyncClient, container_config, ready, sandbox_config
from tests.cri.daemons import Daemon
from tests.images.conformance import BUSYBOX

COMMAND = ["sleep", "100000"]
IDLE_SECONDS = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True, kw_only=True)
class Contestant:
    name: str
    daemon: Daemon
    client: AsyncClient
    samples: dict[str, list[float]] = field(default_factory=dict)

    def note(self, row: str, value: float) -> None:
        self.samples.setdefault(row, []).append(value)


@dataclass(slots=True, kw_only=True)
class Life:
    """One pod with one container, and how many milliseconds each of its calls took."""

    contestant: Contestant
    config: cri.PodSandboxConfig
    pod: str = ""
    container: str = ""
    times: dict[str, float] = field(default_factory=dict)

    async def call(self, row: str, name: str, request: Any) -> Any:
        begin = time.perf_counter()
        answer = await getattr(self.contestant.client.runtime, name)(request, timeout=CALL_SECONDS)
        self.times[row] = (time.perf_counter() - begin) * 1000
        return answer

    async def start(self) -> None:
        main = container_config(command=COMMAND)
        request = cri.RunPodSandboxRequest(config=self.config)
        self.pod = (await self.call("RunPodSandbox", "RunPodSandbox", request)).pod_sandbox_id
        create = cri.CreateContainerRequest(pod_sandbox_id=self.pod, config=main, sandbox_config=self.config)
        self.container = (await self.call("CreateContainer", "CreateContainer", create)).container_id
        await self.call("StartContainer", "StartContainer", cri.StartContainerRequest(container_id=self.container))
        self.times["pod start total"] = sum(
            self.times[row] for row in ("RunPodSandbox", "CreateContainer", "StartContainer")
        )

    async def exec(self) -> None:
        request = cri.ExecSyncRequest(container_id=self.container, cmd=["true"], timeout=30)
        answer = await self.call("ExecSync", "ExecSync", request)
        if answer.exit_code != 0:
            raise RuntimeError(f"{self.contestant.name}: exec ended with {answer.exit_code}: {answer.stderr!r}")

    async def stop(self) -> None:
        """As kubelet ends a pod: container, then sandbox, then both are removed. The grace is 0: the process ignores SIGTERM."""
        await self.call("stop 1", "StopContainer", cri.StopContainerRequest(container_id=self.container, timeout=0))
        await self.call("stop 2", "StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=self.pod))
        await self.call("stop 3", "RemoveContainer", cri.RemoveContainerRequest(container_id=self.container))
        await self.call("stop 4", "RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=self.pod))
        self.times["pod stop total"] = sum(self.times.pop(f"stop {number}") for number in range(1, 5))


def life(contestant: Contestant) -> Life:
    config = sandbox_config(dns_config=cri.DNSConfig(servers=["10.10.10.10"]))
    config.linux.cgroup_parent = contestant.daemon.cgroup_parent
    config.log_directory = str(contestant.daemon.logs / config.metadata.name)
    return Life(contestant=contestant, config=config)


async def pull_busybox(contestant: Contestant) -> None:
    request = cri.PullImageRequest(image=cri.ImageSpec(image=BUSYBOX))
    await contestant.client.images.PullImage(request, timeout=CALL_SECONDS)


async def latency(contestants: list[Contestant], rounds: int, execs: int, warm: int = 3) -> None:
    """One pod at a time; the order turns with each round, so that none is always the first after another."""
    for number in range(-warm, rounds):
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            each = life(contestant)
            await each.start()
            for _ in range(execs):
                await each.exec()
                if number >= 0:
                    contestant.note("ExecSync", each.times["ExecSync"])
            each.times.pop("ExecSync", None)
            await each.stop()
            if number >= 0:
                for row, value in each.times.items():
                    contestant.note(row, value)


async def one_cycle(contestant: Contestant) -> None:
    each = life(contestant)
    await each.start()
    await each.stop()


async def throughput(contestants: list[Contestant], parallel: int, cycles: int, rounds: int) -> None:
    """Whole cycles a second with ``parallel`` of them under way at any time."""
    for number in range(rounds):
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            left = cycles

            async def worker(contestant: Contestant = contestant) -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await one_cycle(contestant)

            begin = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(parallel):
                    group.create_task(worker())
            contestant.note(f"cycles/s, {parallel} parallel", cycles / (time.perf_counter() - begin))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def until_ready(daemon: Daemon) -> float:
    """Start the daemon; seconds until Status says that it is ready. The wait polls every 10 ms in a thread."""
    begin = time.perf_counter()
    await asyncio.to_thread(daemon.start)
    assert ready(daemon.address)
    return time.perf_counter() - begin


async def at_rest(contestant: Contestant, pods: int, restarts: int) -> None:
    """With many pods: memory of monitors and shims a pod, memory and CPU of the daemon, and its restart after kill -9."""
    lives = [life(contestant) for _ in range(pods)]
    gate = asyncio.Semaphore(4)

    async def begin(each: Life) -> None:
        async with gate:
            await each.start()

    async def end(each: Life) -> None:
        async with gate:
            await each.stop()

    async with asyncio.TaskGroup() as group:
        for each in lives:
            group.create_task(begin(each))
    daemon = contestant.daemon
    helpers = daemon.helpers()
    contestant.note("PSS a pod (kB)", sum(map(proportional_bytes, helpers)) / pods / 1024)
    contestant.note("runtime processes a pod", len(helpers) / pods)
    contestant.note(f"daemon PSS, {pods} pods (MB)", proportional_bytes(daemon.pid) / (1 << 20))
    before = cpu_seconds(daemon.pid)
    await asyncio.sleep(IDLE_SECONDS)
    used = (cpu_seconds(daemon.pid) - before) / IDLE_SECONDS
    contestant.note(f"daemon idle CPU, {pods} pods (% of one)", used * 100)
    for _ in range(restarts):
        await asyncio.to_thread(daemon.kill)
        contestant.note(f"ready after kill -9, {pods} pods (ms)", await until_ready(daemon) * 1000)
    await contestant.client.channel.close()
    contestant.client = AsyncClient(daemon.address)
    listed = await contestant.client.runtime.ListContainers(cri.ListContainersRequest(), timeout=CALL_SECONDS)
    running = sum(each.state == cri.CONTAINER_RUNNING for each in listed.containers)
    if running != pods:
        raise RuntimeError(f"{contestant.name}: {running} of {pods} containers are running after the restart")
    async with asyncio.TaskGroup() as group:
        for each in lives:
            group.create_task(end(each))


async def pull(contestants: list[Contestant], reference: str, megabytes: int, rounds: int) -> None:
    """Pull into an empty store. The registry's files are in the page cache for everyone: one unmeasured reader goes first."""
    seconds = 1800.0
    spec = cri.ImageSpec(image=reference)
    for number in range(rounds):
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            images = contestant.client.images
            await asyncio.to_thread(os.sync)
            begin = time.perf_counter()
            await images.PullImage(cri.PullImageRequest(image=spec), timeout=seconds)
            contestant.note(f"pull {megabytes} MB (s)", time.perf_counter() - begin)
            await images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=seconds)
            # A store that removes in the background must not do so in another's time.
            await empty(contestant, seconds=300)


async def empty(contestant: Contestant, seconds: float) -> None:
    """Wait until the store's files are gone, as far as they go."""
    deadline = time.monotonic() + seconds
    last = -1
    while time.monotonic() < deadline:
        done = await asyncio.create_subprocess_exec(
            "du", "-sxk", str(contestant.daemon.root), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        now = int((await done.communicate())[0].split()[0])
        if now == last:
            return
        last = now
        await asyncio.sleep(1)
