"""orlop images: one line a tag, as docker shows them. Test: tests/unit/cli/test_lists.py, tests/cri/test_cli.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

from orlop.cli import show, units
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as pb

COLUMNS: Final = {"REPOSITORY": "Repository", "TAG": "Tag", "IMAGE ID": "ID", "SIZE": "Size"}
NONE: Final = "<none>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("reference", nargs="?", default="", metavar="IMAGE", help="only this image")
    add("-a", "--all", action="store_true", help="accepted for docker's sake; all images are always shown")
    add("-q", "--quiet", action="store_true", help="only ids")
    add("--digests", action="store_true", help="also the digest of each")
    add("--no-trunc", action="store_true", help="whole ids")
    show.add_format(parser)


def run(options: argparse.Namespace) -> int:
    request = pb.ListImagesRequest()
    if options.reference:
        request.filter.image.image = options.reference
    with Client(options.address) as client:
        listed = client.images.ListImages(request).images
    rows = [row for image in listed for row in rows_of(image, whole=options.no_trunc)]
    if options.quiet:
        for identity in dict.fromkeys(row["ID"] for row in rows):
            print(identity)
        return 0
    columns = dict(COLUMNS)
    if options.digests:
        columns = {"REPOSITORY": "Repository", "TAG": "Tag", "DIGEST": "Digest", "IMAGE ID": "ID", "SIZE": "Size"}
    show.show(rows, columns, options.format)
    return 0


def rows_of(image: pb.Image, *, whole: bool) -> Iterator[dict[str, Any]]:
    """Yield one row a tag; an image that only has digests, or nothing, gets one row too."""
    digests = {name: digest for name, _, digest in (each.partition("@") for each in image.repo_digests)}
    names = [tuple(each.rpartition(":")[::2]) for each in image.repo_tags]
    names = names or [(name, NONE) for name in digests] or [(NONE, NONE)]
    for repository, tag in names:
        yield {
            "Repository": repository,
            "Tag": tag,
            "ID": image.id if whole else image.id.removeprefix("sha256:")[:12],
            "Digest": digests.get(repository, NONE),
            "Size": units.size(image.size),
            "Bytes": image.size,
            "Pinned": image.pinned,
            "RepoTags": list(image.repo_tags),
            "RepoDigests": list(image.repo_digests),
        }
