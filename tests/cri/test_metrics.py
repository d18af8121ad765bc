"""Metrics over CRI: every declared name has a value for a running pod, with a label value for each key; figures are plausible."""

from __future__ import annotations

import time

import pytest

from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.census import open_files
from tests.cri.client import CALL_SECONDS, Pod, container_config, pull, sandbox_config
from tests.cri.test_lists import streamed
from tests.cri.test_pod import wait_for
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri

RESOURCES = cri.LinuxContainerResources(
    cpu_period=100000,
    cpu_quota=20000,
    cpu_shares=512,
    memory_limit_in_bytes=64 << 20,
    memory_swap_limit_in_bytes=64 << 20,
)


def keys_of(client) -> dict[str, list[str]]:
    answer = client.runtime.ListMetricDescriptors(cri.ListMetricDescriptorsRequest(), timeout=CALL_SECONDS)
    return {each.name: list(each.label_keys) for each in answer.descriptors}


def metrics_of(client, pod_id: str) -> cri.PodSandboxMetrics:
    answer = client.runtime.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), timeout=CALL_SECONDS)
    (found,) = (each for each in answer.pod_metrics if each.pod_sandbox_id == pod_id)
    return found


def values(metrics, keys, name: str, **labels: str) -> list[int]:
    """Values of a metric of one owner whose labels match."""
    found = []
    for each in metrics:
        if each.name == name:
            have = dict(zip(keys[name], each.label_values, strict=True))
            if labels.items() <= have.items():
                found.append(each.value.value)
    return found


@pytest.fixture
def busy(pod):
    config = container_config("busy", ["sh", "-c", "dd if=/dev/zero of=/file bs=1M count=3; while true; do true; done"])
    config.linux.resources.CopyFrom(RESOURCES)
    config.image.user_specified_image = "said/by-user:1"
    return pod.launch(config)


def test_every_declared_metric_has_a_value_with_all_labels(client, pod, busy):
    keys = keys_of(client)
    found = metrics_of(client, pod.id)
    (container,) = found.container_metrics
    assert container.container_id == busy
    everything = [*found.metrics, *container.metrics]
    assert {each.name for each in everything} == set(keys)
    for each in everything:
        assert len(each.label_values) == len(keys[each.name]), each.name
        assert each.HasField("value")
    series = [(each.name, *each.label_values) for each in everything]
    assert len(series) == len(set(series)), "a series twice: Prometheus refuses the whole scrape"
    labels = dict(zip(keys["container_processes"], container.metrics[0].label_values, strict=False))
    assert labels["container"] == "busy"
    assert labels["image"] == "said/by-user:1"
    assert labels["name"] == busy
    assert (labels["namespace"], labels["pod"]) == (pod.config.metadata.namespace, pod.config.metadata.name)


def test_figures_are_those_of_the_container(client, pod, busy):
    keys = keys_of(client)

    def own(name: str, **labels: str) -> list[int]:
        return values(metrics_of(client, pod.id).container_metrics[0].metrics, keys, f"container_{name}", **labels)

    wait_for(lambda: own("cpu_cfs_throttled_periods_total") > [0], "the quota did not throttle")
    assert own("cpu_cfs_periods_total") >= own("cpu_cfs_throttled_periods_total")
    assert own("spec_cpu_quota") == [20000]
    assert own("spec_cpu_period") == [100000]
    assert own("spec_cpu_shares") == [512]
    assert own("spec_memory_limit_bytes") == [64 << 20]
    assert 0 < own("memory_usage_bytes")[0] <= own("memory_max_usage_bytes")[0] <= 64 << 20
    assert own("memory_failures_total", failure_type="pgfault", scope="container")[0] > 0
    assert own("processes") == [1]
    assert own("threads") == [1]
    assert own("file_descriptors")[0] >= 3
    assert own("sockets") == [0]
    assert own("ulimits_soft", ulimit="max_open_files")[0] > 0
    wait_for(lambda: own("fs_usage_bytes")[0] >= 3 << 20, "the file was not counted", seconds=20)
    assert own("fs_limit_bytes")[0] > own("fs_usage_bytes")[0]
    assert 0 < own("fs_inodes_free")[0] < own("fs_inodes_total")[0]
    assert abs(own("last_seen")[0] - time.time()) < 60
    assert abs(own("start_time_seconds")[0] - time.time()) < 60
    assert own("oom_events_total") == [0]


def test_network_metrics_are_the_pods(client, pod, container):
    keys = keys_of(client)
    pod.exec(container, "sh", "-c", "echo x | nc -u -w 1 10.255.255.254 9; true")

    def sent() -> int:
        return sum(values(metrics_of(client, pod.id).metrics, keys, "container_network_transmit_bytes_total"))

    wait_for(lambda: sent() > 0, "nothing was counted")
    assert "eth0" in {
        dict(zip(keys[each.name], each.label_values, strict=True)).get("interface")
        for each in metrics_of(client, pod.id).metrics
    }
    for each in metrics_of(client, pod.id).metrics:
        assert each.label_values[0] == "", "a pod's own metric names a container"


def test_the_stream_has_the_same_pods_and_ended_ones_are_not_there(client, pod, container):
    found = streamed(
        client.runtime.StreamPodSandboxMetrics, cri.StreamPodSandboxMetricsRequest(), "pod_sandbox_metrics"
    )
    assert [each.pod_sandbox_id for each in found].count(pod.id) == 1
    pod.stop_container(container)
    assert not metrics_of(client, pod.id).container_metrics
    pod.stop()
    answer = client.runtime.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), timeout=CALL_SECONDS)
    assert pod.id not in {each.pod_sandbox_id for each in answer.pod_metrics}


def test_files_that_stay_open_for_figures_are_closed_with_their_pods(client, orlopd):
    """The first round warms up what the daemon keeps anyway; a later one may leave nothing."""
    pull(client, BUSYBOX)
    left = []
    for _ in range(3):
        made = []
        for _ in range(4):
            config = sandbox_config()
            config.linux.cgroup_parent = f"{orlopd.cgroup_parent}/{config.metadata.name}"
            config.log_directory = str(orlopd.logs / config.metadata.name)
            each = Pod.run(client, config)
            each.launch(container_config())
            made.append(each)
        with_pods = open_files(orlopd.pid)
        client.runtime.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), timeout=CALL_SECONDS)
        client.runtime.ListPodSandboxStats(cri.ListPodSandboxStatsRequest(), timeout=CALL_SECONDS)
        assert open_files(orlopd.pid) >= with_pods + 2 * len(made), "no file stays open: the test tests nothing"
        for each in made:
            each.remove()
        left.append(open_files(orlopd.pid))
    # A few come and go with the daemon's threads and connections; a pod's files that stayed open would be ten times as many.
    wait_for(lambda: open_files(orlopd.pid) <= left[0] + 8, f"fds of the daemon after each round: {left}")
