"""Trees and archives as `orlop cp` carries them; nothing gets out of where it was sent."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orlop.base.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlop.cli.cp import Place, split, target_of
from orlop.cli.filetree import (
    ArchiveWriter,
    Entry,
    TreeWriter,
    archive_path,
    below,
    read_archive,
    read_tree,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "file").write_bytes(b"content" * 1000)
    (top / "sub" / "file").chmod(0o640)
    (top / "link").symlink_to("/etc/passwd")
    os.mkfifo(top / "pipe")
    os.utime(top / "sub", (1_000_000_000, 1_000_000_000))
    return top


@pytest.fixture
def target(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    top = tmp_path / "target"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    yield top, fd
    os.close(fd)


def entries(path: Path) -> Iterator[Entry]:
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from read_tree(below(parent, path.name), pytest.fail)
    finally:
        os.close(parent)


def writer(fd: int, *base: str) -> TreeWriter:
    return TreeWriter(root=fd, base=base, keep_owner=False, own_uid=os.geteuid(), own_gid=os.getegid())


def same(one: Path, other: Path) -> None:
    assert (other / "sub" / "file").read_bytes() == (one / "sub" / "file").read_bytes()
    assert (other / "sub" / "file").stat().st_mode & 0o7777 == 0o640
    assert os.readlink(other / "link") == "/etc/passwd"
    assert (other / "pipe").is_fifo()
    assert (other / "sub").stat().st_mtime == 1_000_000_000


def test_a_tree_into_a_tree(source, target):
    into = writer(target[1], "copy")
    for entry in entries(source):
        into.put(entry)
    into.finish()
    same(source, target[0] / "copy")


def test_a_tree_through_an_archive(source, target):
    archive = io.BytesIO()
    out = ArchiveWriter(archive, "copy")
    for entry in entries(source):
        out.put(entry)
    out.finish()
    archive.seek(0)
    into = writer(target[1])
    for entry in read_archive(archive, pytest.fail):
        into.put(entry)
    into.finish()
    same(source, target[0] / "copy")


def test_devices_and_sockets_are_left_out_and_told(tmp_path):
    import socket

    (tmp_path / "s").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s" / "socket"))
        told: list[str] = []
        found = list(read_tree(lambda flags: os.open(tmp_path / "s", flags), told.append))
    assert [each.path for each in found] == [()]
    assert told == ["socket: is a device or a socket, which is not copied"]


def test_a_link_at_the_destination_is_not_followed(tmp_path, source, target):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (target[0] / "copy").mkdir()
    (target[0] / "copy" / "sub").symlink_to(outside)
    into = writer(target[1], "copy")
    with pytest.raises(FailedPrecondition, match="is there, and not a directory"):
        for entry in entries(source):
            into.put(entry)
    (target[0] / "copy" / "sub").unlink()
    (target[0] / "copy" / "sub").mkdir()
    (target[0] / "copy" / "sub" / "file").symlink_to(outside / "file")
    for entry in entries(source):
        into.put(entry)
    assert (outside / "file").read_text() == "mine"
    assert (target[0] / "copy" / "sub" / "file").read_bytes() == b"content" * 1000


def test_an_archive_that_goes_through_a_link_of_its_own(target, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        made.addfile(link)
        file = tarfile.TarInfo("way/escaped")
        file.size = 1
        made.addfile(file, io.BytesIO(b"x"))
    archive.seek(0)
    into = writer(target[1])
    with pytest.raises(OSError):
        for entry in read_archive(archive, pytest.fail):
            into.put(entry)
    assert not (tmp_path / "escaped").exists()


@given(name=st.text(alphabet="./a\0", max_size=12))
def test_names_of_an_archive(name):
    try:
        found = archive_path(name)
    except InvalidArgument:
        assert ".." in name.split("/") or "\0" in name
    else:
        assert not {"", ".", ".."} & set(found)


HEADS = st.sampled_from(
    [b"", b"\x1f\x8b\x08\x0c", b"\x1f\x8b\x08\x00", b"BZh9", b"\xfd7zXZ\x00", b"]\x00\x00\x80", b"a" * 100 + b"644\0"]
)


@given(data=st.tuples(HEADS, st.binary(max_size=2048)).map(b"".join))
@example(data=b"\x1f\x8b\x08")
def test_what_is_no_archive(data):
    try:
        for entry in read_archive(io.BytesIO(data), lambda _: None):
            if entry.content is not None:
                with entry.content() as file:
                    file.read()
    except InvalidArgument:
        return
    # What tarfile itself takes for an archive without entries: zeros, and a compressed stream that is cut off before its first byte.
    assert not data.strip(b"\0") or data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"]\0\0"))


def test_set_id_bits_are_not_kept_unless_wanted(tmp_path, target):
    program = tmp_path / "program"
    program.write_text("")
    program.chmod(0o4755)
    for keep, mode in ((False, 0o755), (True, 0o4755)):
        into = writer(target[1], "program")
        into.keep_set_ids = keep
        for entry in entries(program):
            into.put(entry)
        assert (target[0] / "program").stat().st_mode & 0o7777 == mode


def test_paths_of_containers():
    assert split("web:/etc/passwd") == ("web", "/etc/passwd")
    assert split("web:etc") == ("web", "/etc")
    assert split("./a:b") == ("", "./a:b")
    assert split("/a:b") == ("", "/a:b")
    assert split("-") == ("", "-")
    with pytest.raises(InvalidArgument, match="has no path"):
        split("web:")


@pytest.mark.parametrize(
    ("source", "destination", "names"),
    [
        ("/x/file", "dir", ("file",)),
        ("/x/file", "dir/new", ("new",)),
        ("/x/file", "dir/there", ("there",)),
        ("/x/sub", "dir", ("sub",)),
        ("/x/sub/.", "dir", ()),
        ("/x/sub", "dir/new", ("new",)),
        ("/x/sub/.", "dir/new/", ("new",)),
        ("/x/file", "dir/new/", None),
        ("/x/sub", "dir/there", None),
        ("/x/file", "none/new", None),
        ("/x/file", "dir/there/", None),
    ],
)
def test_where_things_go(tmp_path, monkeypatch, source, destination, names):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "there").write_text("")
    monkeypatch.chdir(tmp_path)
    mode = 0o040755 if "sub" in source else 0o100644
    if names is None:
        with pytest.raises((OSError, OrlopError)):
            target_of(Place(source), Place(destination), mode)
        return
    root, found = target_of(Place(source), Place(destination), mode)
    os.close(root)
    assert found == names
