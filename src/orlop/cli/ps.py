"""orlop ps: containers as docker shows them; those of kubelet's pods too. Test: tests/unit/cli/test_lists.py, tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from orlop.base.errors import InvalidArgument, NotFound
from orlop.cli import show, units
from orlop.cli.client import Client
from orlop.cli.find import ANNOTATION_COMMAND, ANNOTATION_PORTS, container_name
from orlop.specs.cri_gen import api_pb2 as pb

COLUMNS: Final = {
    "CONTAINER ID": "ID",
    "IMAGE": "Image",
    "COMMAND": "Command",
    "CREATED": "RunningFor",
    "STATUS": "Status",
    "PORTS": "Ports",
    "POD": "Pod",
    "NAMES": "Names",
}
STATES: Final = {
    pb.CONTAINER_CREATED: "created",
    pb.CONTAINER_RUNNING: "running",
    pb.CONTAINER_EXITED: "exited",
    pb.CONTAINER_UNKNOWN: "unknown",
}
FILTERS: Final = ("id", "name", "label", "status", "ancestor", "pod")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-a", "--all", action="store_true", help="also containers that do not run")
    add("-q", "--quiet", action="store_true", help="only ids")
    add("-n", "--last", type=int, default=0, metavar="N", help="the N that were created last, in any state")
    add("-l", "--latest", action="store_true", help="the one that was created last, in any state")
    add(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="id, name, label, status, ancestor (image) or pod",
    )
    add("--no-trunc", action="store_true", help="whole ids and commands")
    show.add_format(parser)


def run(options: argparse.Namespace) -> int:
    filters = parse_filters(options.filter, FILTERS)
    last = 1 if options.latest else options.last
    with Client(options.address) as client:
        listed = client.runtime.ListContainers(pb.ListContainersRequest()).containers
        chosen = [each for each in sorted(listed, key=lambda one: -one.created_at) if matches(each, filters)]
        if last:
            chosen = chosen[:last]
        elif not options.all and not filters.get("status"):
            chosen = [each for each in chosen if each.state == pb.CONTAINER_RUNNING]
        if options.quiet:
            for each in chosen:
                print(each.id if options.no_trunc else each.id[:12])
            return 0
        rows = [each for each in (row(client, one, whole=options.no_trunc) for one in chosen) if each is not None]
    show.show(rows, COLUMNS, options.format)
    return 0


def parse_filters(texts: list[str], known: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or key not in known:
            raise InvalidArgument(f"--filter: {text!r} is not one of {', '.join(f'{each}=...' for each in known)}")
        found.setdefault(key, []).append(value)
    return found


def matches(container: pb.Container, filters: dict[str, list[str]]) -> bool:
    """Values of one key are alternatives, as with docker; labels must all match."""
    tests: dict[str, Callable[[str], bool]] = {
        "id": container.id.startswith,
        "name": lambda value: value in container_name(container),
        "status": lambda value: STATES.get(container.state) == value,
        "ancestor": lambda value: (
            value in (container.image.image, container.image_id, container.image.user_specified_image)
        ),
        "pod": container.pod_sandbox_id.startswith,
    }
    for key, values in filters.items():
        if key == "label":
            if not all(has_label(container.labels, value) for value in values):
                return False
        elif not any(tests[key](value) for value in values):
            return False
    return True


def has_label(labels: Any, text: str) -> bool:
    key, separator, value = text.partition("=")
    return key in labels and (not separator or labels[key] == value)


def row(client: Client, container: pb.Container, *, whole: bool) -> dict[str, Any] | None:
    """Return the fields of one line; None when the container went away between the list and now."""
    try:
        status = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container.id)).status
    except NotFound:
        return None
    command = container.annotations.get(ANNOTATION_COMMAND, "")
    return {
        "ID": container.id if whole else container.id[:12],
        "Names": container_name(container),
        "Image": container.image.user_specified_image or container.image.image,
        "ImageID": container.image_id,
        "Command": command if whole or len(command) <= 20 else command[:19] + "…",
        "CreatedAt": units.timestamp(container.created_at),
        "RunningFor": f"{units.age(container.created_at)} ago",
        "State": STATES.get(container.state, "unknown"),
        "Status": status_words(status),
        "ExitCode": status.exit_code,
        "Ports": container.annotations.get(ANNOTATION_PORTS, ""),
        "Pod": container.pod_sandbox_id if whole else container.pod_sandbox_id[:12],
        "Labels": dict(container.labels),
        "Annotations": dict(container.annotations),
    }


def status_words(status: pb.ContainerStatus) -> str:
    if status.state == pb.CONTAINER_RUNNING:
        return f"Up {units.age(status.started_at)}"
    if status.state == pb.CONTAINER_EXITED:
        reason = f", {status.reason}" if status.reason not in ("", "Completed", "Error") else ""
        return f"Exited ({status.exit_code}{reason}) {units.age(status.finished_at)} ago"
    return STATES.get(status.state, "unknown").capitalize()
