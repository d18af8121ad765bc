"""orlop inspect: everything known of containers, pods and images, as JSON or by a template. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from google.protobuf.json_format import MessageToDict

from orlop.base.errors import NotFound, OrlopError
from orlop.cli import show
from orlop.cli.client import Client
from orlop.cli.find import find_container, find_sandbox
from orlop.specs.cri_gen import api_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--type", choices=["container", "pod", "image"], default="", help="what the name is of")
    parser.add_argument(
        "-f", "--format", default="json", metavar="FORMAT", help="json, or a template such as '{{.status.state}}'"
    )


def run(options: argparse.Namespace) -> int:
    found = []
    failed = 0
    with Client(options.address) as client:
        for name in options.names:
            try:
                found.append(look(client, name, options.type))
            except OrlopError as error:
                print(f"orlop inspect: {error}", file=sys.stderr)
                failed = 1
    if options.format == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for each in found:
            print(show.render(show.unescape(options.format), each))
    return failed


def look(client: Client, name: str, kind: str) -> dict[str, Any]:
    """Return the status and the verbose facts of whatever has this name: a container, else a pod, else an image."""
    finders = {"container": _container, "pod": _pod, "image": _image}
    for finder in [finders[kind]] if kind else finders.values():
        try:
            return finder(client, name)
        except NotFound:
            continue
    raise NotFound(f"{name}: there is no such {kind or 'container, pod or image'}")


def _container(client: Client, name: str) -> dict[str, Any]:
    identity = find_container(client, name).id
    answer = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=identity, verbose=True))
    return {"type": "container", "status": _plain(answer.status), **_facts(answer.info)}


def _pod(client: Client, name: str) -> dict[str, Any]:
    identity = find_sandbox(client, name).id
    answer = client.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=identity, verbose=True))
    containers = [_plain(each) for each in answer.containers_statuses]
    return {"type": "pod", "status": _plain(answer.status), "containers": containers, **_facts(answer.info)}


def _image(client: Client, name: str) -> dict[str, Any]:
    answer = client.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image=name), verbose=True))
    if not answer.HasField("image"):
        raise NotFound(f"image {name}: there is no such image")
    return {"type": "image", "status": _plain(answer.image), **_facts(answer.info)}


def _plain(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def _facts(info: Any) -> dict[str, Any]:
    facts = {}
    for key, text in info.items():
        try:
            facts[key] = json.loads(text)
        except ValueError:
            facts[key] = text
    return facts
