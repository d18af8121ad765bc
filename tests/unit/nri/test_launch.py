"""Plugins started from a directory: names, configuration, identity, their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.base.supervise import Supervisor
from orlop.nri.launch import configuration, launch_all, programs
from orlop.nri.plugins import Plugins

SOURCE = Path(__file__).resolve().parents[3] / "src"
PLUGIN = f"""#!{sys.executable}
import asyncio, os, sys
sys.path.insert(0, {str(SOURCE)!r})
from orlop.nri.stub import Stub

class Plugin:
    def Configure(self, request):
        with open({{record!r}}, "w") as file:
            print(os.environ["NRI_PLUGIN_IDX"], os.environ["NRI_PLUGIN_NAME"], request.config, os.getpid(), file=file)
    def RunPodSandbox(self, request):
        pass

asyncio.run(Stub(Plugin()).run())
"""


def program(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_what_is_a_plugin(tmp_path, caplog):
    program(tmp_path / "20-b")
    program(tmp_path / "10-a-b.c")
    program(tmp_path / "30-data", mode=0o644)
    program(tmp_path / "noindex")
    (tmp_path / "40-directory").mkdir()
    assert [(each.index, each.base) for each in programs(tmp_path)] == [("10", "a-b.c"), ("20", "b")]
    assert "noindex: is not started" in caplog.text
    assert list(programs(tmp_path / "missing")) == []


def test_configuration_of_its_full_name_first(tmp_path):
    (one,) = programs(program(tmp_path / "10-a").parent)
    assert configuration(tmp_path, one) == ""
    (tmp_path / "a.conf").write_text("short")
    assert configuration(tmp_path, one) == "short"
    (tmp_path / "10-a.conf").write_text("long")
    assert configuration(tmp_path, one) == "long"
    (tmp_path / "10-a.conf").write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match="UTF-8"):
        configuration(tmp_path, one)
    (tmp_path / "10-a.conf").write_bytes(bytes(limits.NRI_CONFIG_BYTES + 1))
    with pytest.raises(InvalidArgument, match="longer than"):
        configuration(tmp_path, one)


class Nothing:
    def pods(self):
        return []

    def containers(self):
        return []

    async def update(self, updates, plugin):
        return []

    def evict(self, evictions, plugin):
        pass


async def test_started_configured_and_ended(tmp_path, caplog):
    supervisor = Supervisor("test")
    plugins = Plugins(supervisor, registration_seconds=30, request_seconds=30)
    plugins.runtime = Nothing()
    record = tmp_path / "record"
    directory = tmp_path / "plugins"
    directory.mkdir()
    program(directory / "10-real", PLUGIN.format(record=str(record)))
    program(directory / "20-ends", "#!/bin/sh\nexit 3\n")
    program(directory / "30-broken", "#!/nonexistent/interpreter\n")
    (tmp_path / "real.conf").write_text("key=value")
    await launch_all(plugins, directory, tmp_path)
    assert plugins.names() == ("10-real",)
    index, base, text, pid = record.read_text().split()
    assert (index, base, text) == ("10", "real", "key=value")
    assert "30-broken: is not started" in caplog.text
    await plugins.close()
    pidfd = None
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(int(pid))
    if pidfd is not None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, ended.set)
        await asyncio.wait_for(ended.wait(), 30)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
    await supervisor.close()
