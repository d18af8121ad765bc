"""orlop events: what happens to containers and pods, one line each, until interrupted.

The words are docker's: create, start, die (with the exit code), destroy; a pod has the same as its sandbox.
Test: tests/cri/test_cli_human.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, Final

from orlop.base.errors import DeadlineExceeded, InvalidArgument
from orlop.cli import show, units
from orlop.cli.client import Client
from orlop.cli.find import LABEL_NAME
from orlop.cli.ps import has_label, parse_filters
from orlop.specs.cri_gen import api_pb2 as pb

ACTIONS: Final = {
    pb.CONTAINER_CREATED_EVENT: "create",
    pb.CONTAINER_STARTED_EVENT: "start",
    pb.CONTAINER_STOPPED_EVENT: "die",
    pb.CONTAINER_DELETED_EVENT: "destroy",
}
FILTERS: Final = ("type", "event", "container", "pod", "label")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="type (container, pod), event (create, start, die, destroy), container, pod or label",
    )
    add("--until", default="", metavar="TIME", help="end at a time")
    add(
        "--format",
        default="",
        metavar="FORMAT",
        help="json (an object a line), or a template such as '{{.Action}} {{.ID}}'",
    )


def run(options: argparse.Namespace) -> int:
    filters = parse_filters(options.filter, FILTERS)
    seconds: float | None = None
    if options.until:
        seconds = (units.parse_time(options.until, "--until") - time.time_ns()) / 1e9
        if seconds <= 0:
            raise InvalidArgument(f"--until: {options.until!r} is over; what has happened is not shown")
    with Client(options.address) as client:
        try:
            for event in client.runtime.GetContainerEvents(pb.GetEventsRequest(), timeout=seconds):
                found = fields(event)
                if matches(found, filters):
                    print(line(found, options.format), flush=True)
        except DeadlineExceeded:
            if seconds is None:
                raise
    return 0


def fields(event: pb.ContainerEventResponse) -> dict[str, Any]:
    """Return the fields of one event."""
    sandbox = event.pod_sandbox_status
    status = next((each for each in event.containers_statuses if each.id == event.container_id), None)
    kind = "pod" if event.container_id == sandbox.id else "container"
    labels = dict(status.labels if status is not None else sandbox.labels if kind == "pod" else {})
    action = ACTIONS.get(event.container_event_type, "unknown")
    name = labels.get(LABEL_NAME) or (
        status.metadata.name if status is not None else sandbox.metadata.name if kind == "pod" else ""
    )
    return {
        "Time": units.timestamp(event.created_at),
        "TimeNano": event.created_at,
        "Type": kind,
        "Action": action,
        "ID": event.container_id,
        "Name": name,
        "Image": "" if status is None else status.image.user_specified_image or status.image.image,
        "ExitCode": status.exit_code if status is not None and action == "die" else None,
        "Pod": sandbox.metadata.name,
        "PodID": sandbox.id,
        "Namespace": sandbox.metadata.namespace,
        "Labels": labels,
    }


def matches(found: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    tests: dict[str, Callable[[str], bool]] = {
        "type": lambda value: value == found["Type"],
        "event": lambda value: value == found["Action"],
        "container": lambda value: (
            found["Type"] == "container" and (value == found["Name"] or found["ID"].startswith(value))
        ),
        "pod": lambda value: value == found["Pod"] or found["PodID"].startswith(value),
        "label": lambda value: has_label(found["Labels"], value),
    }
    return all(
        all(map(tests[key], values)) if key == "label" else any(map(tests[key], values))
        for key, values in filters.items()
    )


def line(found: dict[str, Any], form: str) -> str:
    """Return an event as docker writes it, as JSON, or by a template."""
    if form == "json":
        return json.dumps(found, ensure_ascii=False)
    if form:
        return show.render(show.unescape(form), found)
    facts = {
        "exitCode": found["ExitCode"],
        "image": found["Image"] or None,
        "name": found["Name"] or None,
        "pod": f"{found['Namespace']}/{found['Pod']}" if found["Pod"] else None,
    }
    told = ", ".join(f"{key}={value}" for key, value in facts.items() if value is not None)
    text = f"{found['Time']} {found['Type']} {found['Action']} {found['ID']}" + (f" ({told})" if told else "")
    return "".join(each if each.isprintable() else "?" for each in text)
