"""Metrics, out: descriptors as messages, samples as bytes.

A hundred pods have ten thousand samples, each with the same labels at every call: the unchanging part of each sample (name, kind,
labels) is serialized once, a call only appends the numbers, and a part that has not changed is not serialized at all. The order of
fields on the wire is free.
Test: tests/unit/cri/test_convert_metrics.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from orlop.base.memo import Memo
from orlop.cri.entries import delimited, varint
from orlop.services.metrics.collect import Labelled, PodMetrics
from orlop.services.metrics.descriptors import BASE_LABELS, Metric
from orlop.services.metrics.memory import Sample
from orlop.specs.cri_gen import api_pb2 as pb

NAME: Final = pb.Metric.NAME_FIELD_NUMBER
LABEL: Final = pb.Metric.LABEL_VALUES_FIELD_NUMBER
KIND: Final = varint(pb.Metric.METRIC_TYPE_FIELD_NUMBER << 3) + varint(pb.GAUGE)
TIMESTAMP: Final = varint(pb.Metric.TIMESTAMP_FIELD_NUMBER << 3)
VALUE: Final = varint(pb.UInt64Value.VALUE_FIELD_NUMBER << 3)
VALUES_KEPT: Final = 1 << 14
HEADS_KEPT: Final = 1 << 12
"""Of one pod or container: more than it can have at a time."""
U64: Final = (1 << 64) - 1


def descriptors_out(metrics: Iterable[Metric]) -> pb.ListMetricDescriptorsResponse:
    return pb.ListMetricDescriptorsResponse(
        descriptors=[
            pb.MetricDescriptor(name=each.name, help=each.help, label_keys=[*BASE_LABELS, *each.labels])
            for each in metrics
        ]
    )


@dataclass(slots=True)
class _Known:
    """What was serialized of one owner: the heads of its samples, and its parts as they were last."""

    heads: dict[tuple[Metric, tuple[str, ...]], bytes] = field(default_factory=dict)
    parts: dict[int, tuple[Sequence[Sample], bytes]] = field(default_factory=dict)


class MetricsOut:
    """Serializes PodSandboxMetrics; keeps what does not change between two calls."""

    def __init__(self, alive: Callable[[str], bool]) -> None:
        """``alive``: whether a sandbox or container id still exists."""
        self._known: Memo[tuple[str, ...], _Known] = Memo(lambda _: _Known(), alive)
        self._values: dict[int, bytes] = {}

    def pod(self, metrics: PodMetrics) -> bytes:
        """Return the payload of one PodSandboxMetrics."""
        parts = [
            delimited(pb.PodSandboxMetrics.POD_SANDBOX_ID_FIELD_NUMBER, metrics.pod.id.encode()),
            self._samples(metrics.pod, pb.PodSandboxMetrics.METRICS_FIELD_NUMBER),
        ]
        for each in metrics.containers:
            payload = delimited(pb.ContainerMetrics.CONTAINER_ID_FIELD_NUMBER, each.id.encode()) + self._samples(
                each, pb.ContainerMetrics.METRICS_FIELD_NUMBER
            )
            parts.append(delimited(pb.PodSandboxMetrics.CONTAINER_METRICS_FIELD_NUMBER, payload))
        return b"".join(parts)

    def _samples(self, owner: Labelled, number: int) -> bytes:
        known = self._known.of(owner.id, owner.labels)
        made: list[bytes] = []
        for place, part in enumerate(owner.parts):
            before = known.parts.get(place)
            if before is None or before[0] is not part:
                before = known.parts[place] = (part, self._part(known.heads, owner.labels, part, number))
            made.append(before[1])
        return b"".join(made)

    def _part(
        self,
        heads: dict[tuple[Metric, tuple[str, ...]], bytes],
        labels: tuple[str, ...],
        samples: Sequence[Sample],
        number: int,
    ) -> bytes:
        values = self._values
        tag = varint(number << 3 | 2)
        parts: list[bytes] = []
        for metric, own, value, at in samples:
            head = heads.get((metric, own))
            if head is None:
                head = heads[(metric, own)] = _head(metric, (*labels, *own))
            tail = values.get(value) or self._value(value)
            if at:
                tail += TIMESTAMP + varint(at)
            parts += (tag, varint(len(head) + len(tail)), head, tail)
        if len(heads) > HEADS_KEPT:
            # Interfaces that come and go under ever new names would be remembered for ever.
            heads.clear()
        return b"".join(parts)

    def _value(self, value: int) -> bytes:
        value = min(max(value, 0), U64)
        made = delimited(pb.Metric.VALUE_FIELD_NUMBER, VALUE + varint(value) if value else b"")
        if len(self._values) >= VALUES_KEPT:
            self._values.clear()
        self._values[value] = made
        return made


def _head(metric: Metric, labels: tuple[str, ...]) -> bytes:
    """Return what never changes of a sample: name, kind (a counter is 0, which is not written) and labels."""
    return b"".join(
        (
            delimited(NAME, metric.name.encode()),
            KIND if metric.gauge else b"",
            *(delimited(LABEL, each.encode()) for each in labels),
        )
    )
