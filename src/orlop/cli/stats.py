"""orlop stats: CPU and memory of containers, once or again and again. Test: tests/unit/cli/test_lists.py, tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

from orlop.cli import show, units
from orlop.cli.client import Client
from orlop.cli.find import LABEL_NAME, find_container
from orlop.specs.cri_gen import api_pb2 as pb

INTERVAL_SECONDS: Final = 1.0
COLUMNS: Final = {
    "CONTAINER ID": "ID",
    "NAME": "Name",
    "CPU %": "CPUPerc",
    "MEM USAGE": "MemUsage",
    "SWAP": "Swap",
    "DISK": "Disk",
}
CLEAR: Final = "\x1b[H\x1b[2J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="default: all that run")
    parser.add_argument("--no-stream", action="store_true", help="show the figures once")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids")
    show.add_format(parser)


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:
        wanted = {find_container(client, name).id for name in options.containers}
        before = _measure(client, wanted)
        while True:
            # A rate needs two looks: what one second has cost, as docker shows it.
            time.sleep(INTERVAL_SECONDS)
            now = _measure(client, wanted)
            rows = [row(now[each], before.get(each), whole=options.no_trunc) for each in now]
            if not options.no_stream and sys.stdout.isatty():
                sys.stdout.write(CLEAR)
            show.show(rows, COLUMNS, options.format)
            sys.stdout.flush()
            if options.no_stream:
                return 0
            before = now


def _measure(client: Client, wanted: set[str]) -> dict[str, pb.ContainerStats]:
    listed = client.runtime.ListContainerStats(pb.ListContainerStatsRequest()).stats
    return {each.attributes.id: each for each in listed if not wanted or each.attributes.id in wanted}


def row(now: pb.ContainerStats, before: pb.ContainerStats | None, *, whole: bool) -> dict[str, Any]:
    """Return the fields of one line; the CPU share is of one core, so two busy cores are 200 %."""
    share = 0.0
    if before is not None and now.cpu.timestamp > before.cpu.timestamp:
        used = now.cpu.usage_core_nano_seconds.value - before.cpu.usage_core_nano_seconds.value
        share = 100 * used / (now.cpu.timestamp - before.cpu.timestamp)
    identity = now.attributes.id
    return {
        "ID": identity if whole else identity[:12],
        "Name": now.attributes.labels.get(LABEL_NAME) or now.attributes.metadata.name,
        "CPUPerc": f"{max(0.0, share):.2f}%",
        "MemUsage": units.memory(now.memory.working_set_bytes.value),
        "MemBytes": now.memory.working_set_bytes.value,
        "Swap": units.memory(now.swap.swap_usage_bytes.value),
        "Disk": units.size(now.writable_layer.used_bytes.value),
    }
