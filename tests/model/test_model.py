"""Random sequences of CRI calls, valid and invalid, with the daemon killed between them, against a small model of pods and containers.

The model says what each call must answer and what is there after it; after every step the daemon's lists must agree, at the end each container's
events must have come in order, and nothing may be left. ORLOP_MODEL_EXAMPLES and ORLOP_MODEL_STEPS make it longer.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from orlop.base.errors import AlreadyExists, FailedPrecondition, NotFound, OrlopError
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, container_config, pull, sandbox_config
from tests.cri.daemons import Orlopd
from tests.cri.flow import left_over, state_files
from tests.images.conformance import BUSYBOX

EXAMPLES = int(os.environ.get("ORLOP_MODEL_EXAMPLES", "3"))
STEPS = int(os.environ.get("ORLOP_MODEL_STEPS", "25"))
NOBODY = "0" * 64
CREATED, RUNNING, EXITED = cri.CONTAINER_CREATED, cri.CONTAINER_RUNNING, cri.CONTAINER_EXITED
IN_ORDER = (
    cri.CONTAINER_CREATED_EVENT,
    cri.CONTAINER_STARTED_EVENT,
    cri.CONTAINER_STOPPED_EVENT,
    cri.CONTAINER_DELETED_EVENT,
)

pytestmark = [pytest.mark.cri, pytest.mark.timeout(300 + EXAMPLES * STEPS)]


@dataclass(slots=True)
class Container:
    id: str
    name: str
    state: int


@dataclass(slots=True)
class Sandbox:
    id: str
    config: cri.PodSandboxConfig
    ready: bool = True
    containers: dict[str, Container] = field(default_factory=dict)


class Events:
    """Takes in what GetContainerEvents says, from one daemon after the other; a kill may lose events, never turn them around."""

    def __init__(self, address: str) -> None:
        self.of: dict[str, list[int]] = {}
        self._channel = grpc.insecure_channel(address)
        call = self._channel.unary_stream(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            request_serializer=cri.GetEventsRequest.SerializeToString,
            response_deserializer=cri.ContainerEventResponse.FromString,
        )
        self._stream = call(cri.GetEventsRequest(), wait_for_ready=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._stream:
                self.of.setdefault(event.container_id, []).append(event.container_event_type)
        except grpc.RpcError:
            return  # cancelled, or the daemon was killed

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join(10)
        self._channel.close()


def one_of(bundle: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Something of the bundle, which may have been removed meanwhile; now and then what never was."""
    return st.one_of(bundle, bundle, bundle, bundle, st.just(NOBODY))


@contextmanager
def refused(kind: type[OrlopError]) -> Iterator[None]:
    with pytest.raises(kind):
        yield


def machine_over(daemon: Orlopd) -> type[RuleBasedStateMachine]:
    """The state machine class whose examples all drive this daemon."""
    numbers = itertools.count()

    class Calls(RuleBasedStateMachine):
        pods = Bundle("pods")
        containers = Bundle("containers")

        def __init__(self) -> None:
            super().__init__()
            self.model: dict[str, Sandbox] = {}
            self.image = True
            self.connect()

        def connect(self) -> None:
            self.client = Client(daemon.address)
            self.events = Events(daemon.address)
            pull(self.client, BUSYBOX)
            self.image = True

        def call(self, name: str, request: object) -> object:
            return getattr(self.client.runtime, name)(request, timeout=CALL_SECONDS)

        def where(self, container: str) -> tuple[Sandbox, Container] | None:
            for sandbox in self.model.values():
                if container in sandbox.containers:
                    return sandbox, sandbox.containers[container]
            return None

        # ---- sandboxes

        @rule(target=pods)
        def run(self) -> str:
            config = sandbox_config(f"model-{next(numbers)}")
            config.linux.cgroup_parent = daemon.cgroup_parent
            config.log_directory = str(daemon.logs / config.metadata.name)
            made = self.call("RunPodSandbox", cri.RunPodSandboxRequest(config=config)).pod_sandbox_id
            self.model[made] = Sandbox(made, config)
            return made

        @rule(pod=pods)
        def run_again(self, pod: str) -> None:
            """As a caller whose answer got lost: what nobody has used yet is given again, anything else is refused."""
            sandbox = self.model.get(pod)
            if sandbox is None:
                return
            request = cri.RunPodSandboxRequest(config=sandbox.config)
            if sandbox.ready and not sandbox.containers:
                assert self.call("RunPodSandbox", request).pod_sandbox_id == pod
                return
            with refused(AlreadyExists):
                self.call("RunPodSandbox", request)

        @rule(pod=one_of(pods))
        def stop_pod(self, pod: str) -> None:
            self.call("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=pod))
            if (sandbox := self.model.get(pod)) is not None:
                sandbox.ready = False
                for container in sandbox.containers.values():
                    container.state = EXITED

        @rule(pod=one_of(consumes(pods)))
        def remove_pod(self, pod: str) -> None:
            self.call("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=pod))
            self.model.pop(pod, None)

        @rule(pod=one_of(pods))
        def status_of_pod(self, pod: str) -> None:
            request = cri.PodSandboxStatusRequest(pod_sandbox_id=pod)
            sandbox = self.model.get(pod)
            if sandbox is None:
                with refused(NotFound):
                    self.call("PodSandboxStatus", request)
                return
            answer = self.call("PodSandboxStatus", request)
            assert answer.status.state == (cri.SANDBOX_READY if sandbox.ready else cri.SANDBOX_NOTREADY)
            assert {each.id: each.state for each in answer.containers_statuses} == {
                each.id: each.state for each in sandbox.containers.values()
            }

        # ---- containers

        @rule(target=containers, pod=one_of(pods), name=st.sampled_from(["a", "b", "c"]))
        def create(self, pod: str, name: str) -> object:
            sandbox = self.model.get(pod)
            config = sandbox.config if sandbox is not None else sandbox_config("nobody")
            request = cri.CreateContainerRequest(
                pod_sandbox_id=pod, config=container_config(name), sandbox_config=config
            )
            if sandbox is None:
                expected: type[OrlopError] | None = NotFound
            elif not sandbox.ready:
                expected = FailedPrecondition
            elif taken := next((each for each in sandbox.containers.values() if each.name == name), None):
                if taken.state == CREATED:
                    assert self.call("CreateContainer", request).container_id == taken.id
                    return multiple()
                expected = AlreadyExists
            else:
                expected = None if self.image else NotFound
            if expected is not None:
                with refused(expected):
                    self.call("CreateContainer", request)
                return multiple()
            made = self.call("CreateContainer", request).container_id
            assert sandbox is not None
            sandbox.containers[made] = Container(made, name, CREATED)
            return made

        @rule(container=one_of(containers))
        def start(self, container: str) -> None:
            request = cri.StartContainerRequest(container_id=container)
            found = self.where(container)
            if found is None:
                with refused(NotFound):
                    self.call("StartContainer", request)
            elif found[1].state != CREATED or not found[0].ready:
                with refused(FailedPrecondition):
                    self.call("StartContainer", request)
            else:
                self.call("StartContainer", request)
                found[1].state = RUNNING

        @rule(target=containers, pod=pods, name=st.sampled_from(["d", "e"]))
        def launch(self, pod: str, name: str) -> object:
            made = self.create(pod, name)
            if isinstance(made, str):
                self.start(made)
            return made

        @rule(container=one_of(containers))
        def stop(self, container: str) -> None:
            self.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=0))
            if (found := self.where(container)) is not None:
                found[1].state = EXITED

        @rule(container=one_of(containers))
        def remove(self, container: str) -> None:
            self.call("RemoveContainer", cri.RemoveContainerRequest(container_id=container))
            if (found := self.where(container)) is not None:
                del found[0].containers[container]

        @rule(container=one_of(containers))
        def execute(self, container: str) -> None:
            request = cri.ExecSyncRequest(container_id=container, cmd=["sh", "-c", "echo here; exit 3"], timeout=30)
            found = self.where(container)
            if found is None or found[1].state != RUNNING:
                with refused(NotFound if found is None else FailedPrecondition):
                    self.call("ExecSync", request)
                return
            answer = self.call("ExecSync", request)
            assert (answer.stdout, answer.exit_code) == (b"here\n", 3)

        @rule(container=one_of(containers))
        def stats(self, container: str) -> None:
            request = cri.ContainerStatsRequest(container_id=container)
            if self.where(container) is None:
                with refused(NotFound):
                    self.call("ContainerStats", request)
            else:
                assert self.call("ContainerStats", request).stats.attributes.id == container

        # ---- images and the daemon

        @rule()
        def pull_image(self) -> None:
            pull(self.client, BUSYBOX)
            self.image = True

        @rule()
        def remove_image(self) -> None:
            spec = cri.ImageSpec(image=BUSYBOX)
            self.client.images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=CALL_SECONDS)
            self.image = False

        @rule()
        def kill_the_daemon(self) -> None:
            image = self.image
            self.check_events()
            self.client.__exit__(None, None, None)
            daemon.kill()
            daemon.start()
            self.connect()
            if not image:
                self.remove_image()

        # ---- what must hold after every step

        @invariant()
        def lists_agree(self) -> None:
            items = self.call("ListPodSandbox", cri.ListPodSandboxRequest()).items
            assert {each.id: each.state == cri.SANDBOX_READY for each in items} == {
                each.id: each.ready for each in self.model.values()
            }
            listed = self.call("ListContainers", cri.ListContainersRequest()).containers
            assert {each.id: each.state for each in listed} == {
                each.id: each.state for sandbox in self.model.values() for each in sandbox.containers.values()
            }
            images = self.client.images.ListImages(cri.ListImagesRequest(), timeout=CALL_SECONDS).images
            assert any(BUSYBOX in each.repo_tags for each in images) == self.image

        def check_events(self) -> None:
            self.events.close()
            for subject, kinds in self.events.of.items():
                places = [IN_ORDER.index(kind) for kind in kinds]
                assert places == sorted(set(places)), f"events of {subject} came as {kinds}"

        def teardown(self) -> None:
            for pod in list(self.model):
                self.remove_pod(pod)
            self.lists_agree()
            self.check_events()
            self.client.__exit__(None, None, None)

    return Calls


def test_random_calls_agree_with_the_model(registry):
    with Orlopd(registry.certs_d, name="model") as daemon:
        scope = daemon.scope()
        before, files_before = scope.take(), state_files(daemon)
        run_state_machine_as_test(
            machine_over(daemon),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize="ORLOP_MODEL_EXAMPLES" not in os.environ,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert left_over(daemon, scope, before, files_before) == {}
