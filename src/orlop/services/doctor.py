"""``orlop doctor``: what this host can and can't do, why, and what that means. Builds the report; the terminal prints it.

Findings come from kernel/probe.py; here is only the meaning. Test: tests/unit/services/test_doctor.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from orlop.kernel.probe import Feature, Probe


class Verdict(StrEnum):
    OK = "ok"
    LIMITED = "limited"
    """Works, with something missing."""
    BROKEN = "broken"
    """Containers cannot be run."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report."""

    name: str
    verdict: Verdict
    reason: str
    """What was seen."""
    meaning: str = ""
    """What cannot be done, and what to do about it; empty when all is well."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole: as bad as its worst finding."""

    verdict: Verdict
    kernel: str
    findings: tuple[Finding, ...]


_MEANING: Final[dict[str, tuple[Verdict, str]]] = {
    "overlay": (
        Verdict.BROKEN,
        "no container's root can be built; needs Linux 6.8 and --root on a file system that overlay can write",
    ),
    "overlay_volatile": (Verdict.LIMITED, "writable layers are synced when a container ends, which takes longer"),
    "overlay_userxattr": (Verdict.LIMITED, "overlays inside user namespaces are not possible"),
    "recursive_read_only": (Verdict.LIMITED, "mounts with recursiveReadOnly are refused"),
    "mount_options": (Verdict.LIMITED, "mounts with noexec, nosuid or nodev are refused; needs Linux 5.12"),
    "clone_detached": (
        Verdict.LIMITED,
        "a pod's /dev/shm is kept in a mount namespace of its own, which makes a pod slower; needs Linux 6.15",
    ),
    "idmapped_mounts": (Verdict.LIMITED, "pods in user namespaces cannot own their volumes"),
    "project_quota": (
        Verdict.LIMITED,
        "writable layers cannot be limited (runtime.rootfs_size); needs --root on XFS or ext4 with prjquota",
    ),
    "user_namespaces": (Verdict.LIMITED, "pods in user namespaces and rootless use are not possible"),
    "pidfd": (Verdict.BROKEN, "processes cannot be watched safely; needs Linux 5.3"),
    "cgroup_v2": (
        Verdict.LIMITED,
        "limits go through cgroup v1: the unified map, memory.high and eBPF device rules are not possible",
    ),
    "clone_into_cgroup": (Verdict.LIMITED, "processes join their cgroup after they are born; needs Linux 5.7"),
    "cgroup_kill": (Verdict.LIMITED, "process trees are killed by freezing and signalling each process"),
    "device_bpf": (Verdict.LIMITED, "device rules cannot be enforced on cgroup v2"),
    "pressure": (Verdict.LIMITED, "stats have no pressure figures"),
    "seccomp": (Verdict.LIMITED, "system calls are not filtered: profiles other than Unconfined are refused"),
    "apparmor": (Verdict.LIMITED, "AppArmor profiles are refused; other confinement is not touched"),
    "selinux": (Verdict.LIMITED, "SELinux labels are refused; other confinement is not touched"),
    "nftables": (Verdict.LIMITED, "the built-in network cannot masquerade or map host ports"),
    "sys_resource": (Verdict.LIMITED, "limits that may not be raised are clamped, with a warning"),
}
_ALTERNATIVES: Final = ("apparmor", "selinux")
"""Hosts have one of these or none; that one of them is missing is no fault."""
_ORDER: Final = (Verdict.OK, Verdict.LIMITED, Verdict.BROKEN)


def examine(probe: Probe) -> Report:
    """Probe everything and say what it means. Takes some milliseconds; needs the daemon's privileges to be right."""
    return report(probe.all(), root=os.geteuid() == 0, kernel=os.uname().release)


def report(features: Sequence[Feature], *, root: bool, kernel: str) -> Report:
    """Turn outcomes into a report. Pure."""
    findings: list[Finding] = []
    if not root:
        findings.append(
            Finding(
                name="root",
                verdict=Verdict.BROKEN,
                reason="the effective user is not root",
                meaning="pods cannot be run; what follows was seen without privileges",
            )
        )
    have = {feature.name for feature in features if feature.available}
    for feature in features:
        verdict, meaning = _MEANING[feature.name]
        fine = feature.available or (feature.name in _ALTERNATIVES and bool(have.intersection(_ALTERNATIVES)))
        findings.append(
            Finding(
                name=feature.name,
                verdict=Verdict.OK if fine else verdict,
                reason=feature.reason,
                meaning="" if feature.available else meaning,
            )
        )
    worst = max((finding.verdict for finding in findings), key=_ORDER.index, default=Verdict.OK)
    return Report(verdict=worst, kernel=kernel, findings=tuple(findings))
