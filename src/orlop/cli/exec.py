"""orlop exec: run a command in a running container. Exit codes as docker: the command's own, 126 not executable, 127 no such command.

Without -i and -t the command runs through CRI's ExecSync: its output comes at its end, at most 16 MiB a stream. With them its streams are
connected; the command ends with its caller, also when that detaches. Test: tests/cri/test_cli.py, tests/cri/test_cli_terminal.py.
"""

from __future__ import annotations

import argparse
import sys

from orlop.base.errors import InvalidArgument, OrlopError
from orlop.cli.client import Client
from orlop.cli.find import find_container
from orlop.cli.run import EXIT_ERROR as START_FAILED
from orlop.cli.run import exit_code_of
from orlop.cli.terminal import add_detach_keys
from orlop.specs.cri_gen import api_pb2 as pb
from orlop.specs.cri_gen import orlop_pb2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("container", metavar="CONTAINER")
    add("command", nargs=argparse.REMAINDER, metavar="CMD ...")
    add("-i", "--interactive", action="store_true", help="pass standard input on")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("--timeout", type=int, default=0, metavar="SECONDS", help="kill it after this long (not with -i or -t)")
    add_detach_keys(parser)


def run(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise InvalidArgument("CMD is missing")
    if options.tty and options.interactive and not sys.stdin.isatty():
        raise InvalidArgument("-t with -i: standard input is not a terminal")
    with Client(options.address) as client:
        container_id = find_container(client, options.container).id
        try:
            if options.interactive or options.tty:
                return _connected(client, options, container_id, command)
            done = client.runtime.ExecSync(
                pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=options.timeout)
            )
        except OrlopError as error:
            code = exit_code_of(error)
            if code == START_FAILED:
                raise
            print(f"orlop exec: {error}", file=sys.stderr)
            return code
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(done.stderr)
    sys.stderr.buffer.flush()
    return int(done.exit_code)


def _connected(client: Client, options: argparse.Namespace, container_id: str, command: list[str]) -> int:
    from orlop.cli.terminal import converse, window

    start = orlop_pb2.ExecStart(container_id=container_id, command=command, stdin=options.interactive, tty=options.tty)
    terminal = options.tty and sys.stdin.isatty()
    if terminal:
        start.size.CopyFrom(window())
    code = converse(
        client.node.Exec,
        orlop_pb2.ExecInput(start=start),
        orlop_pb2.ExecInput,
        stdin=options.interactive,
        terminal=terminal,
        keys=options.detach_keys,
    )
    return code or 0
