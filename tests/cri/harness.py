"""Fixtures of the cri and conformance tiers: a registry with the images, orlopd with directories of its own, nothing left behind.

pytest finds them through the conftest.py of the folders that use them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orlop.cli.client import Client
from tests.cri.client import Pod, container_config, pull, sandbox_config
from tests.cri.daemons import Containerd, Daemon, Orlopd
from tests.images.conformance import BUSYBOX, push_all, write_mirrors
from tests.images.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where images come from in a test: the registry's HOST:PORT, and the certs.d that mirrors the public hosts to it."""

    host: str
    certs_d: Path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory / "data") as serving:
        push_all(serving.host)
        yield Source(host=serving.host, certs_d=write_mirrors(directory / "certs.d", serving.host))


def daemon_under_test(certs_d: Path) -> Daemon:
    """orlopd; or, to prove the suite itself, Debian's containerd: ORLOP_TESTS_ON=runc or ORLOP_TESTS_ON=crun."""
    peer = os.environ.get("ORLOP_TESTS_ON", "")
    if peer:
        return Containerd(certs_d, runtime=peer)
    return Orlopd(certs_d)


@pytest.fixture(scope="module")
def orlopd(registry: Source) -> Iterator[Daemon]:
    """A daemon for all tests of a module; at the end no pod may be left, and nothing of its pods."""
    with daemon_under_test(registry.certs_d) as daemon:
        scope = daemon.scope()
        before = scope.take()
        yield daemon
        daemon.remove_pods()
        left = scope.settle(before)
        assert left == {}, f"left behind by the pods of this module: {left}"


@pytest.fixture
def client(orlopd: Daemon) -> Iterator[Client]:
    with Client(orlopd.address) as connected:
        yield connected


@pytest.fixture
def pod(client: Client, orlopd: Daemon) -> Iterator[Pod]:
    """A ready sandbox; removed afterwards."""
    pull(client, BUSYBOX)
    config = sandbox_config()
    config.linux.cgroup_parent = orlopd.cgroup_parent
    config.log_directory = str(orlopd.logs / config.metadata.name)
    made = Pod.run(client, config)
    yield made
    made.remove()


@pytest.fixture
def container(pod: Pod) -> str:
    """A running busybox that sleeps."""
    return pod.launch(container_config())
