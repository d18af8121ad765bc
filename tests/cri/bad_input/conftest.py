"""What every test of this folder ends with: the daemon answers, and nothing of what was refused is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, Pod, pull, sandbox_config
from tests.cri.daemons import Daemon
from tests.cri.flow import left_over, state_files
from tests.cri.harness import registry
from tests.images.conformance import BUSYBOX

__all__ = ["registry"]


@pytest.fixture(scope="module")
def shared_pod(orlopd: Daemon) -> Iterator[Pod]:
    """One ready sandbox for all containers that are refused."""
    with Client(orlopd.address) as client:
        pull(client, BUSYBOX)
        config = sandbox_config("host")
        config.linux.cgroup_parent = orlopd.cgroup_parent
        config.log_directory = str(orlopd.logs / "host")
        made = Pod.run(client, config)
        yield made
        made.remove()


@pytest.fixture(scope="module")
def baseline(orlopd: Daemon, shared_pod: Pod):  # noqa: ANN201
    """What is there with the shared pod alone."""
    scope = orlopd.scope()
    return scope, scope.take(), state_files(orlopd)


@pytest.fixture
def nothing_remains(orlopd: Daemon, client: Client, shared_pod: Pod, baseline) -> Iterator[None]:  # noqa: ANN001
    yield
    scope, before, files_before = baseline
    assert client.runtime.ListContainers(cri.ListContainersRequest(), timeout=CALL_SECONDS).containers == []
    listed = client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items
    assert [each.id for each in listed] == [shared_pod.id]
    assert left_over(orlopd, scope, before, files_before) == {}
