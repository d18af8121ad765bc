"""What is remembered between two readings of metrics: which figures this host has, labels, counts that were costly. Test: see collect.py."""

from __future__ import annotations

from typing import Generic, TypeVar

from orlop.base.memo import Memo, MemoOf
from orlop.base.paced import Paced
from orlop.kernel.procfs import Descriptors
from orlop.metadata.pods import ContainerRow, PodStore, SandboxRow
from orlop.oci.cgroups.stats import CgroupMetrics, Group
from orlop.services.metrics.descriptors import Metric

Sample = tuple[Metric, tuple[str, ...], int, int]
"""(metric, values of its own labels, value, when it was counted in ns or 0 for now)"""


S = TypeVar("S")


class Steady(Generic[S]):
    """Gives back the earlier one of equal objects, so that what was made of it stays right."""

    def __init__(self) -> None:
        self._kept: dict[str, S] = {}

    def of(self, key: str, value: S) -> S:
        known = self._kept.get(key)
        if known is not None and known == value:
            return known
        self._kept[key] = value
        return value

    def forget(self, key: str) -> None:
        self._kept.pop(key, None)


class MetricMemory:
    """What is remembered between two calls; constructed once."""

    def __init__(self, pods: PodStore) -> None:
        self.groups: frozenset[Group] | None = None
        self.device: tuple[str, str] | None = None
        """Name and ``major:minor`` of the device that writable layers are on."""
        self.descriptors: Paced[Descriptors] = Paced(0)
        self.steady: Steady[list[Sample]] = Steady()

        def alive(key: str) -> bool:
            return pods.has_container(key) or pods.has_sandbox(key)

        self.counted: MemoOf[CgroupMetrics, list[Sample]] = MemoOf(alive)
        """Samples of figures that have not changed."""
        self.fixed: MemoOf[ContainerRow, list[Sample]] = MemoOf(alive)
        """Samples that depend on nothing but the row."""

        def container_labels(row: ContainerRow) -> tuple[str, ...]:
            image = row.config.image.user_specified_image or row.config.image.image
            pod = pods.sandbox(row.sandbox_id).config.metadata
            return (row.config.metadata.name, row.cgroup, image, row.id, pod.namespace, pod.name)

        def pod_labels(row: SandboxRow) -> tuple[str, ...]:
            return ("", row.cgroup_parent, "", row.id, row.config.metadata.namespace, row.config.metadata.name)

        self.container_labels: Memo[ContainerRow, tuple[str, ...]] = Memo(container_labels, pods.has_container)
        self.pod_labels: Memo[SandboxRow, tuple[str, ...]] = Memo(pod_labels, pods.has_sandbox)

    def forget(self, id: str) -> None:
        """Drop what is known of a container or a pod that is removed."""
        self.descriptors.forget(id)
        self.steady.forget(id)
