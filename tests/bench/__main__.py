"""python -m tests.bench: orlop beside containerd with runc and with crun, in turns, through one client. ``make bench``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import image, polling, report, rows, streaming
from tests.bench.rows import Contestant
from tests.cri.client import AsyncClient
from tests.cri.daemons import Containerd, Daemon, Orlopd
from tests.images.conformance import push_all, write_mirrors
from tests.images.registry import Registry
from tests.tools.build import CACHE, TOP

CONTESTANTS: dict[str, Callable[[Path], Daemon]] = {
    "orlop": Orlopd,
    "orlop+cni": lambda certs: Orlopd(certs, cni=True, name="orlop-cni"),
    "containerd+runc": lambda certs: Containerd(certs, runtime="runc"),
    "containerd+crun": lambda certs: Containerd(certs, runtime="crun"),
}
ROWS = ("latency", "cycles", "streaming", "rest", "polling", "pull")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples, a small image: minutes become seconds")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--runtimes", default=",".join(CONTESTANTS), help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--rounds", type=int, help="pods of each runtime in the latency rows (default 50)")
    parser.add_argument("--pods", type=int, help="pods in the rows at rest (default 100)")
    parser.add_argument("--out", type=Path, default=TOP / "bench-results", help="directory for the JSON")
    given = parser.parse_args()
    for what, known in ((given.rows, ROWS), (given.runtimes, CONTESTANTS)):
        if wrong := set(what.split(",")) - set(known):
            parser.error(f"not known: {', '.join(sorted(wrong))}")
    given.rounds = given.rounds or (8 if given.quick else 50)
    given.pods = given.pods or (10 if given.quick else 100)
    return given


async def measure(given: argparse.Namespace, registry: Registry, daemons: dict[str, Daemon]) -> list[Contestant]:
    contestants = [
        Contestant(name=name, daemon=each, client=AsyncClient(each.address)) for name, each in daemons.items()
    ]
    asked = given.rows.split(",")
    for each in contestants:
        await rows.pull_busybox(each)
    gc.collect()
    gc.freeze()
    if "latency" in asked:
        print(f"latency: {given.rounds} pods of each, one at a time", flush=True)
        await rows.latency(contestants, given.rounds, execs=3)
    if "cycles" in asked:
        for parallel in (1, 8, 32):
            print(f"cycles: {parallel} parallel", flush=True)
            cycles = max(parallel * 2, 16) if given.quick else max(parallel * 4, 64)
            await rows.throughput(contestants, parallel, cycles, rounds=1 if given.quick else 3)
    if "streaming" in asked:
        sessions, megabytes, rounds = (10, 128, 1) if given.quick else (50, 1024, 3)
        print(f"streaming: {sessions} sessions of each, then {rounds} times {megabytes} MB", flush=True)
        await streaming.streaming(contestants, sessions, megabytes, rounds)
    if "rest" in asked:
        for each in contestants:
            print(f"at rest: {given.pods} pods of {each.name}", flush=True)
            await rows.at_rest(each, given.pods, restarts=2 if given.quick else 5)
    if "polling" in asked:
        # The network makes no difference to a list.
        pollers = [each for each in contestants if each.name != "orlop+cni"]
        print(f"polling: {given.pods} pods of each", flush=True)
        await polling.polling(pollers, given.pods)
    if "pull" in asked:
        megabytes, files = (128, 5000) if given.quick else (2048, 80000)
        print(f"pull: {megabytes} MB in {files} files", flush=True)
        mark = CACHE / "bench-registry" / "made"
        reference = await asyncio.to_thread(
            image.prepare, registry, files=files, total_bytes=megabytes << 20, mark=mark
        )
        # The network makes no difference to a pull: one of the two orlops is enough.
        pullers = [each for each in contestants if each.name != "orlop+cni"]
        await rows.pull(pullers, reference, megabytes, rounds=1 if given.quick else 3)
    for each in contestants:
        await each.client.channel.close()
    return contestants


def main() -> None:
    given = arguments()
    facts = report.conditions()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orlop-bench-")))
        registry = stack.enter_context(Registry(CACHE / "bench-registry"))
        push_all(registry.host)
        certs = write_mirrors(directory / "certs.d", registry.host)
        daemons = {
            name: stack.enter_context(CONTESTANTS[name](certs))
            for name in CONTESTANTS
            if name in given.runtimes.split(",")
        }
        contestants = asyncio.run(measure(given, registry, daemons))
    results = {each.name: each.samples for each in contestants}
    report.show(results)
    facts["load_after"] = list(report.os.getloadavg())
    facts["arguments"] = {key: str(value) for key, value in vars(given).items()}
    print(f"written: {report.write(given.out, results, facts)}")


if __name__ == "__main__":
    main()
