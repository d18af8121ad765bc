"""A plugin on the published Go stub (tests/conformance/nri_plugin): messages of all sizes in both directions, and a split synchronization."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orlop.base import limits
from orlop.base.errors import OrlopError
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import container_config
from tests.tools.build import tool

pytestmark = pytest.mark.cri
WAIT_SECONDS = 30.0


class GoPlugin:
    def __init__(self, socket: Path, log: Path, grow: int) -> None:
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [tool("nri-plugin"), "-socket", str(socket), "-grow", str(grow)],
                stdout=output,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, call: str) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            for line in self.lines():
                if line["call"].startswith(call):
                    return line
            assert time.monotonic() < deadline, f"no {call}: {self.log.read_text()}"
            assert self.process.poll() is None, f"the plugin ended before {call}"
            time.sleep(0.02)


@pytest.fixture
def go_plugin(orlopd, tmp_path):
    @contextmanager
    def run(grow: int = 0) -> Iterator[GoPlugin]:
        plugin = GoPlugin(orlopd.state / "nri.sock", tmp_path / f"plugin-{grow}.log", grow)
        try:
            plugin.wait_for("Synchronize")
            yield plugin
        finally:
            plugin.process.kill()
            plugin.process.wait(WAIT_SECONDS)

    return run


# Around the published reader's buffer of 4096 bytes, and far beyond its queue of 256 frames of that size.
@pytest.mark.parametrize("size", [10, 4050, 4096, 8192, 100_000, 1_500_000])
def test_messages_of_all_sizes_arrive_whole(pod, go_plugin, size):
    with go_plugin(grow=min(size, 100_000)) as plugin:
        container = pod.create(
            container_config(f"size-{size}", ["sh", "-c", "exit 0"], annotations={"big": "b" * size})
        )
        created = plugin.wait_for("CreateContainer")
        assert created["container"] == container
        assert created["bytes"] > size
        assert plugin.wait_for("ValidateContainerAdjustment")["bytes"] > size
        assert plugin.wait_for("PostCreateContainer")["bytes"] > size + min(size, 100_000)
        pod.remove_container(container)


def test_what_it_asks_for_is_in_the_container(pod, go_plugin):
    with go_plugin(grow=5) as plugin:
        assert plugin.wait_for("Configure")["call"].startswith("Configure orlop v")
        container = pod.launch(container_config("grown"))
        assert pod.exec(container, "sh", "-c", "echo $GROWN").stdout == b"ggggg\n"
        pod.stop_container(container)
        assert plugin.wait_for("StopContainer")["container"] == container


def test_what_does_not_fit_into_one_message_is_synchronized_in_parts(pod, go_plugin):
    big = {"big": "b" * (1 << 20)}
    made = [pod.create(container_config(f"big-{n}", annotations=big)) for n in range(5)]
    with go_plugin() as plugin:
        synchronized = plugin.wait_for("Synchronize")
    assert synchronized["containers"] == len(made)
    assert synchronized["bytes"] > limits.TTRPC_MESSAGE_BYTES
    for each in made:
        pod.remove_container(each)


def test_a_message_that_cannot_be_carried_is_an_error_and_the_plugin_stays(pod, client, go_plugin):
    env = [cri.KeyValue(key="B", value=b"b" * (2 << 20))]
    with go_plugin() as plugin:
        with pytest.raises(OrlopError, match=r"50-go: CreateContainer: ttrpc: a message of \d+ bytes, limit"):
            pod.create(container_config("too-big", annotations={"a": "a" * (3 << 20)}, envs=env))
        pod.remove_container(pod.create(container_config("fits")))
        assert plugin.process.poll() is None
    request = cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=pod.id))
    assert not client.runtime.ListContainers(request, timeout=60).containers
