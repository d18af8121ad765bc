"""The plugins' socket: whose it is, who may use it, what was there before."""

from __future__ import annotations

import socket
import stat

import pytest

from orlop.base.errors import FailedPrecondition, Internal
from orlop.base.supervise import Supervisor
from orlop.nri.listen import Listener, bind
from orlop.nri.plugins import Plugins


def test_only_root_may_connect(tmp_path):
    path = tmp_path / "nri" / "nri.sock"
    with bind(path):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_living_owner_keeps_it_and_a_dead_one_does_not(tmp_path):
    path = tmp_path / "nri.sock"
    with bind(path):
        inode = path.stat().st_ino
        with pytest.raises(FailedPrecondition, match="another process listens there"):
            bind(path)
        assert path.stat().st_ino == inode
    bind(path).close()


def test_a_file_that_is_no_socket_stays(tmp_path):
    path = tmp_path / "nri.sock"
    path.write_text("mine")
    with pytest.raises(Internal, match="is no socket"):
        bind(path)
    assert path.read_text() == "mine"


def test_what_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Internal, match=r"cannot listen"):
        bind(tmp_path / "file" / "nri.sock")
    with pytest.raises(Internal, match=r"cannot listen"):
        bind(tmp_path / ("x" * 120))


async def test_the_file_goes_with_the_listener(tmp_path):
    supervisor = Supervisor("test")
    listener = Listener(Plugins(supervisor), supervisor, tmp_path / "nri.sock")
    await listener.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "nri.sock"))
    await listener.close()
    assert not (tmp_path / "nri.sock").exists()
    await supervisor.close()
