"""Devices of this host's /dev as nodes of a spec; nothing is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop.base.errors import InvalidArgument
from orlop.services.containers.devices import device_nodes, host_devices
from orlop.specs.pod import Device


def test_a_device_has_the_numbers_and_owner_of_the_host() -> None:
    (node,) = device_nodes((Device(container_path="/dev/mine", host_path="/dev/null"),))
    facts = os.stat("/dev/null")
    assert (node.path, node.type, node.major, node.minor) == ("/dev/mine", "c", 1, 3)
    assert (node.file_mode, node.uid, node.gid) == (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid)


def test_links_are_followed_on_the_host(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    (node,) = device_nodes((Device(container_path="/dev/z", host_path=str(tmp_path / "link")),))
    assert (node.path, node.major, node.minor) == ("/dev/z", 1, 5)


def test_a_directory_stands_for_the_nodes_below_it() -> None:
    nodes = {node.path: node for node in device_nodes((Device(container_path="/all/", host_path="/dev"),))}
    assert (nodes["/all/null"].major, nodes["/all/null"].minor) == (1, 3)
    assert all(path.startswith("/all/") for path in nodes)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("missing", "No such file"), ("file", "is not a device"), ("empty", "holds no device")],
)
def test_what_is_no_device_is_named(tmp_path: Path, kind: str, words: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    path = str(tmp_path / kind)
    with pytest.raises(InvalidArgument, match=rf"devices\[1\].host_path: {path}.*{words}"):
        device_nodes(
            (Device(container_path="/dev/a", host_path="/dev/null"), Device(container_path="/dev/b", host_path=path))
        )


def test_devices_of_the_host_leave_out_what_each_container_gets_anew() -> None:
    paths = {node.path for node in host_devices()}
    assert "/dev/null" in paths
    assert not paths & {"/dev/console", "/dev/ptmx", "/dev/tty"}
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in paths)
