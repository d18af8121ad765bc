"""orlop attach: connect to a running container's own streams; the detach keys leave it running. Test: tests/cri/test_cli_terminal.py."""

from __future__ import annotations

import argparse
import json
import sys

from orlop.cli.client import Client
from orlop.cli.find import find_container
from orlop.cli.terminal import add_detach_keys, converse
from orlop.specs.cri_gen import api_pb2 as pb
from orlop.specs.cri_gen import orlop_pb2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("--no-stdin", action="store_true", help="do not connect standard input")
    parser.add_argument(
        "--sig-proxy",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pass signals on to the container, unless it has a terminal (default)",
    )
    add_detach_keys(parser)


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:
        container_id = find_container(client, options.container).id
        answer = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container_id, verbose=True))
        config = json.loads(answer.info.get("info", "{}")).get("config", {})
        tty, has_stdin = bool(config.get("tty")), bool(config.get("stdin"))
        stdin = has_stdin and not options.no_stdin

        def pass_on(number: int) -> None:
            client.node.Kill(orlop_pb2.KillRequest(container_id=container_id, signal=number))

        code = converse(
            client.node.Attach,
            orlop_pb2.AttachInput(start=orlop_pb2.AttachStart(container_id=container_id, stdin=stdin, tty=tty)),
            orlop_pb2.AttachInput,
            stdin=stdin,
            terminal=tty and stdin and sys.stdin.isatty(),
            on_signal=pass_on if options.sig_proxy else None,
            keys=options.detach_keys,
        )
    return code or 0
