"""orlop rm: containers, and pods by their names. What `orlop run` made goes with its pod and its logs. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
import contextlib

from orlop.base.errors import FailedPrecondition, NotFound
from orlop.cli.client import Client
from orlop.cli.find import ANNOTATION_LOGS, find_container, find_sandbox, made_by_run
from orlop.cli.many import each
from orlop.cli.run import remove_pod
from orlop.specs.cri_gen import api_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="CONTAINER|POD")
    parser.add_argument("-f", "--force", action="store_true", help="kill what runs; what does not exist is no error")


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:

        def remove(name: str) -> None:
            with contextlib.suppress(*((NotFound,) if options.force else ())):
                remove_one(client, name, force=options.force)

        return each("rm", options.names, remove)


def remove_one(client: Client, name: str, *, force: bool) -> None:
    try:
        container = find_container(client, name)
    except NotFound:
        _remove_pod_named(client, name, force=force)
        return
    if container.state == pb.CONTAINER_RUNNING and not force:
        raise FailedPrecondition(f"container {name}: is running; stop it first, or use -f")
    if made_by_run(container.labels):
        remove_pod(client, container.pod_sandbox_id, container.annotations.get(ANNOTATION_LOGS, ""))
    else:
        client.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container.id))


def _remove_pod_named(client: Client, name: str, *, force: bool) -> None:
    try:
        pod = find_sandbox(client, name)
    except NotFound:
        raise NotFound(f"{name}: there is no such container or pod") from None
    if pod.state == pb.SANDBOX_READY and not force:
        raise FailedPrecondition(f"pod {name}: is ready; stop its containers first, or use -f")
    # A pod of `run` whose container is gone (its creation was interrupted) has the place of its logs nowhere else.
    remove_pod(client, pod.id, pod.annotations.get(ANNOTATION_LOGS, ""))
