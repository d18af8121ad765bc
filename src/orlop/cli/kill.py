"""orlop kill: send a signal to a container's first process. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse

from orlop.cli.client import Client
from orlop.cli.find import find_container
from orlop.cli.many import each
from orlop.cli.signals import signal_number
from orlop.specs.cri_gen import orlop_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="by name or number (default KILL)")


def run(options: argparse.Namespace) -> int:
    number = signal_number(options.signal, "--signal")
    with Client(options.address) as client:

        def kill(name: str) -> None:
            client.node.Kill(pb.KillRequest(container_id=find_container(client, name).id, signal=number))

        return each("kill", options.containers, kill)
