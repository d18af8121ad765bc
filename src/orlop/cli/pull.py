"""orlop pull: with a progress bar a layer when somebody watches, in plain lines when not. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from orlop.base.errors import Internal
from orlop.cli.client import Client
from orlop.specs.cri_gen import orlop_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", metavar="IMAGE", help="such as busybox, nginx:1.27, registry.k8s.io/pause:3.10, NAME@sha256:..."
    )
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="pull for another platform than this host's")
    parser.add_argument(
        "--creds", default="", metavar="USER:PASSWORD", help="credentials; the password '-' is read from standard input"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but the image's id")


def run(options: argparse.Namespace) -> int:
    user, _, password = options.creds.partition(":")
    if password == "-":  # noqa: S105 - the word for "ask standard input"
        password = sys.stdin.readline().rstrip("\n")
    request = pb.PullRequest(image=options.image, platform=options.platform, username=user, password=password)
    with Client(options.address) as client:
        print(pull(client, request, quiet=options.quiet))
    return 0


def pull(client: Client, request: pb.PullRequest, *, quiet: bool) -> str:
    """Pull an image and return its id; progress goes to stderr, so that the id can be captured."""
    updates = client.node.Pull(request)
    if quiet:
        return _last(updates)
    if sys.stderr.isatty():
        return _with_bars(updates)
    return _in_lines(updates, request.image)


def _last(updates: Iterator[Any]) -> str:
    found = ""
    for update in updates:
        found = update.image_ref or found
    if not found:
        raise Internal("pull: the daemon ended the pull without an image")
    return found


def _in_lines(updates: Iterator[Any], image: str) -> str:
    told: dict[str, str] = {}

    def watched() -> Iterator[Any]:
        for update in updates:
            for layer in update.layers:
                if layer.state in ("done", "exists") and told.get(layer.digest) != layer.state:
                    told[layer.digest] = layer.state
                    word = "already there" if layer.state == "exists" else "pulled"
                    print(f"{layer.digest.removeprefix('sha256:')[:12]}: {word}", file=sys.stderr)
            yield update

    print(f"pulling {image}", file=sys.stderr)
    return _last(watched())


def _with_bars(updates: Iterator[Any]) -> str:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    bars: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def watched() -> Iterator[Any]:
            for update in updates:
                for layer in update.layers:
                    if layer.digest not in bars:
                        short = layer.digest.removeprefix("sha256:")[:12]
                        bars[layer.digest] = progress.add_task(short, total=None, state="")
                    whole = layer.state in ("done", "exists")
                    progress.update(
                        bars[layer.digest],
                        total=layer.total_bytes or None,
                        completed=layer.total_bytes if whole else layer.received_bytes,
                        state=layer.state,
                    )
                yield update

        return _last(watched())
