"""orlop timings: where each millisecond of a pod's start went. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from orlop.cli import show
from orlop.cli.client import Client
from orlop.cli.find import find_container, find_sandbox
from orlop.specs.cri_gen import api_pb2 as pb

COLUMNS: Final = {"WHAT": "What", "STAGE": "Stage", "MS": "Milliseconds"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="CONTAINER|POD")
    show.add_format(parser)


def run(options: argparse.Namespace) -> int:
    from orlop.base.errors import NotFound

    with Client(options.address) as client:
        try:
            pod_id = find_container(client, options.name).pod_sandbox_id
        except NotFound:
            pod_id = find_sandbox(client, options.name).id
        answer = client.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod_id, verbose=True))
        rows = stages("pod", answer.info)
        for each in answer.containers_statuses:
            status = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=each.id, verbose=True))
            rows += stages(f"container {each.metadata.name}", status.info)
    total = sum(row["Milliseconds"] for row in rows)
    rows.append({"What": "together", "Stage": "", "Milliseconds": round(total, 3)})
    show.show(rows, COLUMNS, options.format)
    return 0


def stages(what: str, info: Any) -> list[dict[str, Any]]:
    found = json.loads(info.get("info", "{}")).get("timingsMs") or {}
    return [{"What": what, "Stage": name, "Milliseconds": value} for name, value in found.items()]
