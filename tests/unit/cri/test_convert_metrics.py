"""Metrics serialized by hand are the messages that protobuf makes, at the first call and at every later one."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cri.convert.metrics import HEADS_KEPT, MetricsOut, descriptors_out
from orlop.services.metrics import descriptors as d
from orlop.services.metrics.collect import Labelled, PodMetrics
from orlop.specs.cri_gen import api_pb2 as pb

TEXTS = st.text(max_size=300).filter(lambda text: "\ud800" not in text)
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(d.METRICS),
        st.lists(TEXTS, max_size=4).map(tuple),
        st.integers(min_value=0, max_value=(1 << 64) - 1),
        st.integers(min_value=0, max_value=(1 << 63) - 1),
    ),
    max_size=8,
)
LABELS = ("web", "/pod/c", "busybox", "c1", "default", "pod")


def message(owner):
    return [
        pb.Metric(
            name=metric.name,
            metric_type=pb.GAUGE if metric.gauge else pb.COUNTER,
            label_values=[*owner.labels, *own],
            value=pb.UInt64Value(value=value),
            timestamp=at,
        )
        for metric, own, value, at in itertools.chain(*owner.parts)
    ]


@given(first=SAMPLES, second=SAMPLES)
def test_any_samples_are_read_back(first, second):
    out = MetricsOut(lambda _: True)
    for samples in (first, second, first):
        pod = Labelled(id="s1", labels=("", "/pod", "", "s1", "ns", "p"), parts=(samples[:3], samples[3:]))
        container = Labelled(id="c1", labels=LABELS, parts=(samples[::-1],))
        read = pb.PodSandboxMetrics.FromString(out.pod(PodMetrics(pod=pod, containers=(container,))))
        assert read == pb.PodSandboxMetrics(
            pod_sandbox_id="s1",
            metrics=message(pod),
            container_metrics=[pb.ContainerMetrics(container_id="c1", metrics=message(container))],
        )


def test_a_value_of_zero_is_there():
    pod = Labelled(id="s", labels=LABELS, parts=([(d.PROCESSES, (), 0, 0)],))
    read = pb.PodSandboxMetrics.FromString(MetricsOut(lambda _: True).pod(PodMetrics(pod=pod, containers=())))
    assert read.metrics[0].HasField("value")


def test_new_labels_are_written_anew():
    out = MetricsOut(lambda _: True)
    for image in ("old", "new"):
        labels = ("web", "/pod/c", image, "c1", "default", "pod")
        pod = Labelled(id="c1", labels=labels, parts=([(d.PROCESSES, (), 1, 0)],))
        read = pb.PodSandboxMetrics.FromString(out.pod(PodMetrics(pod=pod, containers=())))
        assert read.metrics[0].label_values[2] == image


@pytest.mark.parametrize("metric", d.METRICS, ids=lambda each: each.name)
def test_descriptors_name_all_labels(metric):
    (made,) = descriptors_out([metric]).descriptors
    assert tuple(made.label_keys) == d.BASE_LABELS + metric.labels


def test_what_is_remembered_of_interfaces_that_come_and_go_is_bounded():
    out = MetricsOut(lambda _: True)
    for number in range(HEADS_KEPT + 10):
        pod = Labelled(id="s", labels=LABELS, parts=([(d.SENT_BYTES, (f"veth{number}",), number, 0)],))
        read = pb.PodSandboxMetrics.FromString(out.pod(PodMetrics(pod=pod, containers=())))
        assert read.metrics[0].label_values[-1] == f"veth{number}"
        assert len(out._known.of("s", LABELS).heads) <= HEADS_KEPT
