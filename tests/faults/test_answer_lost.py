"""The daemon dies between the end of its work and its answer: the caller's retry, with the same name, gets what was made."""

from __future__ import annotations

import pytest

from orlop.base.errors import AlreadyExists, Unavailable
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, Pod, container_config, pull
from tests.cri.daemons import Orlopd
from tests.cri.flow import left_over, pod_config, state_files
from tests.images.conformance import BUSYBOX

pytestmark = [pytest.mark.cri, pytest.mark.timeout(90)]


def restarted(daemon: Orlopd) -> None:
    assert daemon.process is not None
    daemon.process.wait(10)
    daemon.process = None
    daemon.environment.pop("ORLOP_FAULTS")
    daemon.start()


def test_a_container_that_was_made_is_the_retrys(registry):
    with Orlopd(registry.certs_d, name="answer") as daemon:
        scope = daemon.scope()
        before, files_before = scope.take(), state_files(daemon)
        with Client(daemon.address) as client:
            pull(client, BUSYBOX)
        daemon.terminate()
        daemon.environment["ORLOP_FAULTS"] = "container.create.created=kill"
        daemon.start()
        config = pod_config(daemon, "lost")
        with Client(daemon.address) as client:
            pod = Pod.run(client, config)
            with pytest.raises(Unavailable):
                pod.create(container_config())
        restarted(daemon)
        with Client(daemon.address) as client:
            pod = Pod(client=client, id=pod.id, config=config)
            listed = client.runtime.ListContainers(cri.ListContainersRequest(), timeout=CALL_SECONDS).containers
            made = pod.create(container_config())
            assert [made] == [each.id for each in listed]
            pod.start(made)
            with pytest.raises(AlreadyExists):
                pod.create(container_config())
            pod.remove()
        assert left_over(daemon, scope, before, files_before) == {}


def test_a_sandbox_that_was_made_is_the_retrys(registry):
    with Orlopd(registry.certs_d, name="answer") as daemon:
        daemon.terminate()
        daemon.environment["ORLOP_FAULTS"] = "sandbox.run.ready=kill"
        daemon.start()
        config = pod_config(daemon, "lost")
        with Client(daemon.address) as client, pytest.raises(Unavailable):
            Pod.run(client, config)
        restarted(daemon)
        with Client(daemon.address) as client:
            listed = client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items
            pod = Pod.run(client, config)
            assert [pod.id] == [each.id for each in listed]
            pod.remove()
