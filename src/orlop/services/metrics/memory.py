"""What is remembered between two readings of metrics: which figures this host has, labels, counts that were costly. Test: see collect.py."""

from __future__ import annotations

from orlop.base.memo import Memo
from orlop.base.paced import Paced
from orlop.kernel.procfs import Descriptors
from orlop.metadata.pods import ContainerRow, PodStore, SandboxRow
from orlop.oci.cgroups.stats import Group


class MetricMemory:
    """What is remembered between two calls; constructed once."""

    def __init__(self, pods: PodStore) -> None:
        self.groups: frozenset[Group] | None = None
        self.device: tuple[str, str] | None = None
        """Name and ``major:minor`` of the device that writable layers are on."""
        self.descriptors: Paced[Descriptors] = Paced(0)

        def container_labels(row: ContainerRow) -> tuple[str, ...]:
            image = row.config.image.user_specified_image or row.config.image.image
            pod = pods.sandbox(row.sandbox_id).config.metadata
            return (row.config.metadata.name, row.cgroup, image, row.id, pod.namespace, pod.name)

        def pod_labels(row: SandboxRow) -> tuple[str, ...]:
            return ("", row.cgroup_parent, "", row.id, row.config.metadata.namespace, row.config.metadata.name)

        self.container_labels: Memo[ContainerRow, tuple[str, ...]] = Memo(container_labels, pods.has_container)
        self.pod_labels: Memo[SandboxRow, tuple[str, ...]] = Memo(pod_labels, pods.has_sandbox)
