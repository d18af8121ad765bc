"""orlop version: this program's and the daemon's. Test: tests/unit/cli/test_main.py."""

from __future__ import annotations

import argparse
import json
import platform
import sys

from orlop import __version__
from orlop.base.errors import Unavailable
from orlop.cli import show
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--format",
        default="text",
        metavar="FORMAT",
        help="text, json, or a template such as '{{.Server.Version}}'",
    )


def run(options: argparse.Namespace) -> int:
    facts: dict[str, dict[str, str]] = {
        "Client": {"Version": __version__, "Python": platform.python_version(), "Kernel": platform.release()}
    }
    failure = None
    try:
        with Client(options.address) as client:
            answer = client.runtime.Version(pb.VersionRequest())
        facts["Server"] = {
            "Name": answer.runtime_name,
            "Version": answer.runtime_version,
            "APIVersion": answer.runtime_api_version,
        }
    except Unavailable as error:
        failure = error
    if options.format == "json":
        print(json.dumps(facts, indent=2))
    elif options.format == "text":
        for side, values in facts.items():
            print(f"{side}:")
            for name, value in values.items():
                print(f"  {name}: {value}")
    else:
        print(show.render(show.unescape(options.format), facts))
    if failure is not None:
        print(f"orlop version: {failure}", file=sys.stderr)
        return 1
    return 0
