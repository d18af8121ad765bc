"""orlop wait: block until containers have ended; print their exit codes. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse

from orlop.cli.client import Client
from orlop.cli.find import find_container
from orlop.cli.many import each
from orlop.specs.cri_gen import orlop_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:

        def wait(name: str) -> str:
            return str(client.node.Wait(pb.WaitRequest(container_id=find_container(client, name).id)).exit_code)

        return each("wait", options.containers, wait)
