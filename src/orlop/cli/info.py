"""orlop info: the daemon's conditions, handlers and directories. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
import json
from typing import Any

from google.protobuf.json_format import MessageToDict

from orlop.cli import show
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", default="text", metavar="FORMAT", help="text, json, or a template")


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:
        facts = gather(client)
    if options.format == "json":
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    elif options.format == "text":
        _print_tree(facts, 0)
    else:
        print(show.render(show.unescape(options.format), facts))
    return 0


def gather(client: Client) -> dict[str, Any]:
    version = client.runtime.Version(pb.VersionRequest())
    status = client.runtime.Status(pb.StatusRequest(verbose=True))
    containers = client.runtime.ListContainers(pb.ListContainersRequest()).containers
    pods = client.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    images = client.images.ListImages(pb.ListImagesRequest()).images
    return {
        "Runtime": f"{version.runtime_name} {version.runtime_version}",
        "Address": client.address,
        "Conditions": {
            each.type: "yes" if each.status else f"no: {each.reason}: {each.message}"
            for each in status.status.conditions
        },
        "Handlers": {
            each.name or '""': MessageToDict(each.features, preserving_proto_field_name=True)
            for each in status.runtime_handlers
        },
        "Pods": len(pods),
        "Containers": {
            "all": len(containers),
            "running": sum(each.state == pb.CONTAINER_RUNNING for each in containers),
        },
        "Images": len(images),
        **{name: json.loads(text) for name, text in status.info.items()},
    }


def _print_tree(facts: dict[str, Any], depth: int) -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{'  ' * depth}{name}:")
            _print_tree(value, depth + 1)
        else:
            print(f"{'  ' * depth}{name}: {value}")
