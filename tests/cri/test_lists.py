"""Lists, unary and streamed, agree under every filter; filters that cannot be are refused or match nothing; events lose nothing."""

from __future__ import annotations

import threading

import grpc
import pytest

from orlop.base import errors
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, Pod, container_config, sandbox_config
from tests.cri.test_pod import wait_for

pytestmark = pytest.mark.cri
POSITION = "orlop-events-position"


@pytest.fixture
def pods(client, orlopd, pod):
    """Two pods beside ``pod``, with two containers each; labels tell them apart."""
    made = []
    for number in range(2):
        config = sandbox_config(labels={"number": str(number), "all": "yes"})
        config.linux.cgroup_parent = orlopd.cgroup_parent
        config.log_directory = str(orlopd.logs / config.metadata.name)
        each = Pod.run(client, config)
        containers = [each.create(container_config(name, labels={"name": name})) for name in ("a", "b")]
        each.start(containers[0])
        made.append((each, containers))
    yield made
    for each, _ in made:
        each.remove()


def streamed(call, request, field):
    found = []
    for message in call(request, timeout=CALL_SECONDS):
        assert len(getattr(message, field)) > 0, "a message without an object"
        found.extend(getattr(message, field))
    return found


def same(client, name: str, filter_, unary_field: str, stream_field: str):
    """Ids of the unary and the streamed list, which must agree; none twice."""
    unary_name, stream_name = f"List{name}", f"Stream{name}" + ("es" if name == "PodSandbox" else "")
    unary = getattr(client.runtime, unary_name)(
        getattr(cri, f"{unary_name}Request")(filter=filter_), timeout=CALL_SECONDS
    )
    stream = streamed(
        getattr(client.runtime, stream_name), getattr(cri, f"{stream_name}Request")(filter=filter_), stream_field
    )
    ids = [getattr(each, "id", "") or each.attributes.id for each in getattr(unary, unary_field)]
    assert sorted(getattr(each, "id", "") or each.attributes.id for each in stream) == sorted(ids)
    assert len(ids) == len(set(ids))
    return set(ids)


def test_streams_and_lists_agree_under_every_filter(client, pods):
    (first, (a, b)), (second, (a2, b2)) = pods
    sandboxes = ("PodSandbox", "items", "pod_sandboxes")
    containers = ("Containers", "containers", "containers")
    running = cri.ContainerStateValue(state=cri.CONTAINER_RUNNING)

    def pod_ids(**filter_):
        return same(client, sandboxes[0], cri.PodSandboxFilter(**filter_), *sandboxes[1:])

    def container_ids(**filter_):
        return same(client, containers[0], cri.ContainerFilter(**filter_), *containers[1:])

    assert {first.id, second.id} < pod_ids()
    assert pod_ids(id=first.id) == {first.id}
    assert pod_ids(label_selector={"all": "yes"}) == {first.id, second.id}
    assert pod_ids(label_selector={"all": "yes", "number": "1"}) == {second.id}
    assert pod_ids(label_selector={"all": "yes", "number": "2"}) == set()
    assert pod_ids(state=cri.PodSandboxStateValue(state=cri.SANDBOX_NOTREADY)) == set()
    assert container_ids() == {a, b, a2, b2}
    assert container_ids(pod_sandbox_id=first.id) == {a, b}
    assert container_ids(state=running) == {a, a2}
    assert container_ids(state=running, label_selector={"name": "a"}, pod_sandbox_id=second.id) == {a2}
    assert container_ids(id=b) == {b}
    stats = cri.ContainerStatsFilter(pod_sandbox_id=first.id)
    assert same(client, "ContainerStats", stats, "stats", "container_stats") == {a, b}
    assert same(client, "PodSandboxStats", cri.PodSandboxStatsFilter(id=second.id), "stats", "pod_sandbox_stats") == {
        second.id
    }


def test_a_list_shows_a_change_at_once(client, pods):
    first, (a, b) = pods[0]

    def listed(request):
        answer = client.runtime.ListContainers(request, timeout=CALL_SECONDS).containers
        return {each.id: each.state for each in answer if each.pod_sandbox_id == first.id}

    def states():
        found = listed(cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=first.id)))
        for everything in (cri.ListContainersRequest(), cri.ListContainersRequest(filter=cri.ContainerFilter())):
            assert listed(everything) == found
        return found

    assert states() == {a: cri.CONTAINER_RUNNING, b: cri.CONTAINER_CREATED}
    first.start(b)
    first.stop_container(a)
    assert states() == {a: cri.CONTAINER_EXITED, b: cri.CONTAINER_RUNNING}
    first.remove_container(a)
    assert states() == {b: cri.CONTAINER_RUNNING}
    first.stop()
    items = client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items
    assert {each.id: each.state for each in items}[first.id] == cri.SANDBOX_NOTREADY


def test_images_are_streamed(client, pod):
    listed = client.images.ListImages(cri.ListImagesRequest(), timeout=CALL_SECONDS).images
    found = streamed(client.images.StreamImages, cri.StreamImagesRequest(), "images")
    assert [each.id for each in found] == [each.id for each in listed]
    one = cri.ImageFilter(image=cri.ImageSpec(image=listed[0].id))
    assert [
        each.id for each in streamed(client.images.StreamImages, cri.StreamImagesRequest(filter=one), "images")
    ] == [listed[0].id]
    none = cri.ImageFilter(image=cri.ImageSpec(image="nowhere.invalid/nothing:1"))
    assert streamed(client.images.StreamImages, cri.StreamImagesRequest(filter=none), "images") == []


@pytest.mark.parametrize(
    ("filter_", "words"),
    [
        ({"id": "a" * 2000}, "filter.id: is longer than"),
        ({"pod_sandbox_id": "a\0b"}, "filter.pod_sandbox_id: contains a NUL"),
        ({"label_selector": {"a": "b" * (1 << 20)}}, "filter.label_selector: are larger"),
        ({"state": cri.ContainerStateValue(state=99)}, "filter.state: 99 is not a state"),
    ],
)
def test_filters_that_cannot_be_are_refused_by_field(client, filter_, words):
    wanted = cri.ContainerFilter(**filter_)
    with pytest.raises(errors.InvalidArgument, match=words):
        client.runtime.ListContainers(cri.ListContainersRequest(filter=wanted), timeout=CALL_SECONDS)
    with pytest.raises(errors.InvalidArgument, match=words):
        list(client.runtime.StreamContainers(cri.StreamContainersRequest(filter=wanted), timeout=CALL_SECONDS))


def test_a_filter_that_matches_nothing_is_an_empty_list(client, pods):
    for id_ in ("0" * 64, "no such id", "../..", "%s%n"):
        wanted = cri.ContainerFilter(id=id_)
        assert not client.runtime.ListContainers(cri.ListContainersRequest(filter=wanted)).containers


def test_resources_of_a_pod_are_kept_and_shown(client, pod):
    request = cri.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod.id,
        overhead=cri.LinuxContainerResources(memory_limit_in_bytes=1 << 20),
        resources=cri.LinuxContainerResources(cpu_shares=512, cpu_quota=20000),
    )
    client.runtime.UpdatePodSandboxResources(request, timeout=CALL_SECONDS)
    more = cri.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod.id, resources=cri.LinuxContainerResources(cpu_shares=256)
    )
    client.runtime.UpdatePodSandboxResources(more, timeout=CALL_SECONDS)
    gone = cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id="0" * 64)
    with pytest.raises(errors.NotFound):
        client.runtime.UpdatePodSandboxResources(gone, timeout=CALL_SECONDS)
    bad = cri.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod.id, overhead=cri.LinuxContainerResources(oom_score_adj=5000)
    )
    with pytest.raises(errors.InvalidArgument, match="overhead.oom_score_adj"):
        client.runtime.UpdatePodSandboxResources(bad, timeout=CALL_SECONDS)
    pod.stop()
    with pytest.raises(errors.FailedPrecondition, match="not ready"):
        client.runtime.UpdatePodSandboxResources(more, timeout=CALL_SECONDS)


class Events:
    """One stream of events, read in a thread."""

    def __init__(self, address: str, position: str = "") -> None:
        self.channel = grpc.insecure_channel(address)
        call = self.channel.unary_stream(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            request_serializer=cri.GetEventsRequest.SerializeToString,
            response_deserializer=cri.ContainerEventResponse.FromString,
        )
        metadata = ((POSITION, position),) if position else ()
        self.call = call(cri.GetEventsRequest(), metadata=metadata, timeout=CALL_SECONDS)
        self.seen: list[cri.ContainerEventResponse] = []
        self.error: grpc.RpcError | None = None
        self.begins = dict(self.call.initial_metadata()).get(POSITION, "")
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self) -> None:
        try:
            for event in self.call:
                self.seen.append(event)
        except grpc.RpcError as error:
            self.error = error

    def position(self) -> str:
        instance, _, number = self.begins.partition("/")
        return f"{instance}/{int(number) + len(self.seen)}"

    def close(self) -> None:
        self.call.cancel()
        self.thread.join()
        self.channel.close()


def test_events_carry_full_statuses_in_order_and_a_reader_who_comes_back_misses_none(client, orlopd, pod):
    Events(orlopd.address).close()  # the first listener after a start hears the past
    first = Events(orlopd.address)
    made = pod.launch(container_config("watched", ["sleep", "100000"]))
    wait_for(lambda: len(first.seen) >= 2, "no events came")
    first.close()
    assert [each.container_event_type for each in first.seen] == [
        cri.CONTAINER_CREATED_EVENT,
        cri.CONTAINER_STARTED_EVENT,
    ]
    for event, state in zip(first.seen, (cri.CONTAINER_CREATED, cri.CONTAINER_RUNNING), strict=True):
        assert event.container_id == made
        assert event.pod_sandbox_status.id == pod.id
        assert [(each.id, each.state) for each in event.containers_statuses] == [(made, state)]
    pod.stop_container(made)
    pod.remove_container(made)
    again = Events(orlopd.address, first.position())
    wait_for(lambda: len(again.seen) >= 2, "the missed events did not come")
    again.close()
    assert again.begins == first.position()
    assert [each.container_event_type for each in again.seen] == [
        cri.CONTAINER_STOPPED_EVENT,
        cri.CONTAINER_DELETED_EVENT,
    ]
    stamps = [each.created_at for each in first.seen + again.seen]
    assert stamps == sorted(set(stamps))
    assert not again.seen[1].containers_statuses


@pytest.mark.parametrize(
    ("position", "code"),
    [
        ("0000000000000000/1", grpc.StatusCode.ABORTED),
        ("nonsense", grpc.StatusCode.INVALID_ARGUMENT),
        ("a/" + "9" * 400, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_position_that_cannot_be_resumed_is_told(orlopd, position, code):
    events = Events(orlopd.address, position)
    events.thread.join(CALL_SECONDS)
    assert events.error is not None
    assert events.error.code() is code
    assert "events" in events.error.details()
    events.close()


def test_what_ended_while_the_daemon_was_away_is_heard_by_the_first_who_listens(orlopd, pod):
    made = pod.launch(container_config("short", ["sh", "-c", "sleep 0.2; exit 3"]))
    orlopd.kill()
    try:
        record = orlopd.state / "pods" / pod.id / f"{made}.exit"
        wait_for(record.exists, "the monitor wrote no exit record")
    finally:
        orlopd.start()
    events = Events(orlopd.address)
    wait_for(lambda: made in {each.container_id for each in events.seen}, "its end was not told")
    events.close()
    (event,) = (each for each in events.seen if each.container_id == made)
    assert event.container_event_type == cri.CONTAINER_STOPPED_EVENT
    (status,) = event.containers_statuses
    assert (status.state, status.exit_code) == (cri.CONTAINER_EXITED, 3)
