"""orlop cp: copy files between a running container and the host; ``-`` is a tar archive on standard input or output.

docker's rules: a file goes to the name that is given, or into the directory that stands there; a directory likewise; ``SRC/.`` is what
is in it. The container's files are reached through its first process's root, by openat2, with its volumes and as it sees them. A link
at the destination is replaced, not followed. Test: tests/unit/cli/test_filetree.py, tests/cri/test_cli_human.py.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError, PermissionDenied
from orlop.cli import units
from orlop.cli.client import Client
from orlop.cli.filetree import ArchiveWriter, Entry, Open, TreeWriter, read_archive, read_tree
from orlop.cli.find import find_container
from orlop.kernel.openat2 import open_in_root
from orlop.specs.cri_gen import api_pb2 as pb

STREAM: Final = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SRC", help="CONTAINER:PATH, a path, or - for an archive on standard input")
    add("destination", metavar="DEST", help="CONTAINER:PATH, a path, or - for an archive on standard output")
    add("-a", "--archive", action="store_true", help="keep owners and set-id bits (default: root's, or yours here)")
    add("-L", "--follow-link", action="store_true", help="copy what SRC points to, if it is a link")
    add("-q", "--quiet", action="store_true", help="do not say how much was copied")


class Place:
    """A path of the host or of a container."""

    def __init__(self, path: str, root: int = -1, container: str = "") -> None:
        self.path = path
        self.container = container
        self._root = root

    def __str__(self) -> str:
        return f"{self.container}:{self.path}" if self.container else self.path

    def open(self, path: str, flags: int) -> int:
        if self._root < 0:
            return os.open(path, flags | os.O_CLOEXEC)
        return open_in_root(self._root, path, flags)

    def mode(self) -> int | None:
        """Return the mode of what stands there, links followed; None: nothing."""
        try:
            fd = self.open(self.path, os.O_PATH)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(fd).st_mode
        finally:
            os.close(fd)


def run(options: argparse.Namespace) -> int:
    source, destination = split(options.source), split(options.destination)
    if bool(source[0]) == bool(destination[0]):
        both = bool(source[0])
        raise InvalidArgument(
            "copying between containers is not possible"
            if both
            else "one of SRC and DEST must be CONTAINER:PATH, and - goes with one"
        )
    with ExitStack() as undo, Client(options.address) as client:
        name, path = source if source[0] else destination
        container = find_container(client, name)
        root = undo.enter_context(_root_of(client, container.id))
        inside = Place(path, root, name)
        if source[0]:
            outside = None if destination[1] == STREAM else Place(destination[1])
            return _copy(inside, outside, options, into_container=False)
        outside = None if source[1] == STREAM else Place(source[1])
        _check_ids(client, container.id)
        return _copy(outside, inside, options, into_container=True)


def split(text: str) -> tuple[str, str]:
    """Return container and path of ``CONTAINER:PATH``, which counts from /; "" and the path of any other."""
    name, colon, path = text.partition(":")
    if not colon or not name or text[0] in "/.":
        return "", text
    if not path:
        raise InvalidArgument(f"{text}: has no path")
    return name, path if path.startswith("/") else f"/{path}"


def _copy(source: Place | None, destination: Place | None, options: argparse.Namespace, *, into_container: bool) -> int:
    left_out = 0

    def tell(what: str) -> None:
        nonlocal left_out
        left_out += 1
        print(f"orlop cp: {source or 'standard input'}: {what}", file=sys.stderr)

    try:
        with ExitStack() as undo:
            if source is None:
                entries: Iterator[Entry] = read_archive(sys.stdin.buffer, tell)
            else:
                entries = read_tree(top_of(source, follow=options.follow_link), tell)
            if destination is None:
                if sys.stdout.isatty():
                    raise InvalidArgument("an archive is not written to a terminal")
                assert source is not None
                writer: ArchiveWriter | TreeWriter = ArchiveWriter(sys.stdout.buffer, name_of(source.path) or ".")
            else:
                first = None if source is None else _kind_of_top(source, follow=options.follow_link)
                root, base = target_of(source, destination, first)
                undo.callback(os.close, root)
                keep = bool(options.archive or source is None)
                mine = (0, 0) if into_container else (os.geteuid(), os.getegid())
                writer = TreeWriter(
                    root=root,
                    base=base,
                    keep_owner=keep,
                    keep_set_ids=into_container or bool(options.archive),
                    own_uid=mine[0],
                    own_gid=mine[1],
                )
            for entry in entries:
                writer.put(entry)
            writer.finish()
    except OSError as error:
        raise _in_words(error, source, destination) from error
    if not options.quiet:
        print(f"Successfully copied {units.size(writer.copied)} to {destination or 'standard output'}", file=sys.stderr)
    return 1 if left_out else 0


def top_of(source: Place, *, follow: bool) -> Open:
    """Open the thing that is copied; a link that is its last name only with ``follow``."""
    path = source.path
    no_follow = 0 if follow or not name_of(path) or path.endswith("/") else os.O_NOFOLLOW
    return lambda flags: source.open(path, flags | no_follow)


def _kind_of_top(source: Place, *, follow: bool) -> int:
    fd = top_of(source, follow=follow)(os.O_PATH)
    try:
        return os.fstat(fd).st_mode
    finally:
        os.close(fd)


def name_of(path: str) -> str:
    """Return the last name of a path, "" when it is /, . or .. that come last."""
    last = path.rstrip("/").rpartition("/")[2]
    return "" if last in (".", "..") else last


def target_of(source: Place | None, destination: Place, mode: int | None) -> tuple[int, tuple[str, ...]]:
    """Return an fd of the directory to write below, and the names below it of what is copied (of its mode); None: an archive's content."""
    there = destination.mode()
    if there is not None and stat.S_ISDIR(there):
        root = destination.open(destination.path, os.O_RDONLY | os.O_DIRECTORY)
        if source is None or not (name := name_of(source.path)):
            if mode is not None and not stat.S_ISDIR(mode):
                os.close(root)
                raise InvalidArgument(f"{source}: is not a directory")
            return root, ()
        return root, (name,)
    if source is None:
        raise FailedPrecondition(f"{destination}: is not a directory, where an archive could go")
    assert mode is not None
    if there is not None and (stat.S_ISDIR(mode) or destination.path.endswith("/")):
        raise FailedPrecondition(f"{destination}: is not a directory")
    name = name_of(destination.path)
    if not name or (there is None and destination.path.endswith("/") and not stat.S_ISDIR(mode)):
        raise NotFound(f"{destination}: there is no such directory")
    above = destination.path.rstrip("/").rpartition("/")
    parent = above[0] or ("/" if above[1] else ".")
    return destination.open(parent, os.O_RDONLY | os.O_DIRECTORY), (name,)


@contextmanager
def _root_of(client: Client, container_id: str) -> Iterator[int]:
    """Open the root directory of a container's first process."""
    pid = _pid(client, container_id)
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise PermissionDenied(f"container {container_id[:12]}: only root may reach its files") from None
    except FileNotFoundError:
        raise FailedPrecondition(f"container {container_id[:12]}: has just ended") from None
    try:
        # The number might have been given to another process between the question and the open.
        if _pid(client, container_id) != pid:
            raise FailedPrecondition(f"container {container_id[:12]}: has just ended")
        yield root
    finally:
        os.close(root)


def _pid(client: Client, container_id: str) -> int:
    answer = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container_id, verbose=True))
    if answer.status.state != pb.CONTAINER_RUNNING:
        raise FailedPrecondition(
            f"container {container_id[:12]}: does not run; files are copied of running containers only"
        )
    return int(json.loads(answer.info["info"])["pid"])


def _check_ids(client: Client, container_id: str) -> None:
    with open(f"/proc/{_pid(client, container_id)}/uid_map") as file:
        first = file.readline().split()
    if first[:2] != ["0", "0"]:
        raise FailedPrecondition(
            f"container {container_id[:12]}: has a user namespace, into which nothing can be copied; out of it works"
        )


def _in_words(error: OSError, source: Place | None, destination: Place | None) -> OrlopError:
    where = f"{source or 'standard input'} to {destination or 'standard output'}"
    name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    text = f"{where}: {name}{(error.strerror or str(error)).lower()}"
    if isinstance(error, FileNotFoundError):
        return NotFound(text)
    return PermissionDenied(text) if isinstance(error, PermissionError) else FailedPrecondition(text)
