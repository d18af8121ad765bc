"""orlop stop: the container's stop signal, then SIGKILL; a pod of `orlop run` gives its network back. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse

from orlop.cli.client import Client
from orlop.cli.find import find_container, made_by_run
from orlop.cli.many import each
from orlop.specs.cri_gen import api_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")
    parser.add_argument(
        "-t", "--time", "--timeout", type=int, default=10, metavar="SECONDS", help="before SIGKILL (default 10)"
    )


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:

        def stop(name: str) -> None:
            container = find_container(client, name)
            client.runtime.StopContainer(pb.StopContainerRequest(container_id=container.id, timeout=options.time))
            if made_by_run(container.labels):
                client.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=container.pod_sandbox_id))

        return each("stop", options.containers, stop)
