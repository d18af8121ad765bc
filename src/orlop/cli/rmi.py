"""orlop rmi: remove images with all their names. Test: tests/cri/test_cli.py."""

from __future__ import annotations

import argparse

from orlop.base.errors import FailedPrecondition, NotFound
from orlop.cli.client import Client
from orlop.cli.find import container_name
from orlop.cli.many import each
from orlop.specs.cri_gen import api_pb2 as pb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "-f", "--force", action="store_true", help="also when a container uses it; what does not exist is no error"
    )


def run(options: argparse.Namespace) -> int:
    with Client(options.address) as client:

        def remove(name: str) -> None:
            spec = pb.ImageSpec(image=name)
            status = client.images.ImageStatus(pb.ImageStatusRequest(image=spec))
            if not status.HasField("image"):
                if options.force:
                    return
                raise NotFound(f"image {name}: there is no such image")
            if not options.force:
                _refuse_used(client, name, status.image.id)
            client.images.RemoveImage(pb.RemoveImageRequest(image=spec))

        return each("rmi", options.images, remove)


def _refuse_used(client: Client, name: str, image_id: str) -> None:
    for container in client.runtime.ListContainers(pb.ListContainersRequest()).containers:
        if container.image_id == image_id:
            raise FailedPrecondition(
                f"image {name}: container {container_name(container)} ({container.id[:12]}) uses it; remove that first, or use -f"
            )
