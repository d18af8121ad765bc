"""orlop pods: kubelet's pods and those of `orlop run`. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from orlop.base.errors import NotFound
from orlop.cli import show, units
from orlop.cli.client import Client
from orlop.cli.ps import has_label, parse_filters
from orlop.specs.cri_gen import api_pb2 as pb

COLUMNS: Final = {
    "POD ID": "ID",
    "NAME": "Name",
    "NAMESPACE": "Namespace",
    "STATUS": "Status",
    "CREATED": "RunningFor",
    "IP": "IP",
    "ATTEMPT": "Attempt",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-q", "--quiet", action="store_true", help="only ids")
    add(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="id, name, namespace, label or status (ready, notready)",
    )
    add("--no-trunc", action="store_true", help="whole ids")
    show.add_format(parser)


def run(options: argparse.Namespace) -> int:
    filters = parse_filters(options.filter, ("id", "name", "namespace", "label", "status"))
    with Client(options.address) as client:
        listed = client.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
        chosen = [each for each in sorted(listed, key=lambda one: -one.created_at) if _matches(each, filters)]
        if options.quiet:
            for each in chosen:
                print(each.id if options.no_trunc else each.id[:12])
            return 0
        rows = [each for each in (_row(client, one, whole=options.no_trunc) for one in chosen) if each is not None]
    show.show(rows, COLUMNS, options.format)
    return 0


def _matches(pod: pb.PodSandbox, filters: dict[str, list[str]]) -> bool:
    tests: dict[str, Callable[[str], bool]] = {
        "id": pod.id.startswith,
        "name": lambda value: value in pod.metadata.name,
        "namespace": lambda value: value == pod.metadata.namespace,
        "status": lambda value: value.lower() == _state(pod),
        "label": lambda value: has_label(pod.labels, value),
    }
    return all(
        all(map(tests[key], values)) if key == "label" else any(map(tests[key], values))
        for key, values in filters.items()
    )


def _state(pod: pb.PodSandbox) -> str:
    return "ready" if pod.state == pb.SANDBOX_READY else "notready"


def _row(client: Client, pod: pb.PodSandbox, *, whole: bool) -> dict[str, Any] | None:
    try:
        status = client.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id)).status
    except NotFound:
        return None
    return {
        "ID": pod.id if whole else pod.id[:12],
        "Name": pod.metadata.name,
        "Namespace": pod.metadata.namespace,
        "UID": pod.metadata.uid,
        "Attempt": pod.metadata.attempt,
        "Status": _state(pod),
        "CreatedAt": units.timestamp(pod.created_at),
        "RunningFor": f"{units.age(pod.created_at)} ago",
        "IP": ", ".join(filter(None, [status.network.ip, *(each.ip for each in status.network.additional_ips)])),
        "Handler": pod.runtime_handler,
        "Labels": dict(pod.labels),
        "Annotations": dict(pod.annotations),
    }
