"""What annotations may ask for, and where they are looked for."""

from __future__ import annotations

import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.services.options import Options, asked, log_rate_of, own_hard_limits, rootfs_bytes_of, ulimits_of
from orlop.specs.pod import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from orlop.specs.runtime import Rlimit
from orlop.specs.ulimit import INFINITY

HARD = {"RLIMIT_NOFILE": 1000, "RLIMIT_NPROC": INFINITY}


def container(**annotations: str) -> ContainerConfig:
    return ContainerConfig(metadata=ContainerMetadata(name="web"), annotations=keys(annotations))


def pod(**annotations: str) -> SandboxConfig:
    return SandboxConfig(metadata=SandboxMetadata(name="p"), annotations=keys(annotations))


def keys(annotations: dict[str, str]) -> dict[str, str]:
    """``ulimits``: of all; ``ulimits_web``: of one container."""
    found = {}
    for name, value in annotations.items():
        option, _, owner = name.replace("log_rate", "log-rate").replace("rootfs_size", "rootfs-size").partition("_")
        found[f"{option}.orlop.dev/{owner}" if owner else f"orlop.dev/{option}"] = value
    return found


def test_the_nearest_annotation_wins() -> None:
    everywhere = pod(ulimits="nofile=1", ulimits_web="nofile=2", ulimits_db="nofile=3")
    assert asked(container(ulimits="nofile=4"), everywhere, "ulimits")[1] == "nofile=4"
    where, value = asked(container(), everywhere, "ulimits")
    assert (where, value) == ("container web: pod: annotations[ulimits.orlop.dev/web]", "nofile=2")
    assert asked(container(), pod(ulimits="nofile=1"), "ulimits")[1] == "nofile=1"
    assert asked(container(), pod(ulimits_db="nofile=3"), "ulimits") == ("", "")


def test_limits_of_the_node_and_those_asked_for() -> None:
    node = Options(ulimits=(Rlimit(type="RLIMIT_NOFILE", soft=10, hard=20),), hard_limits=HARD)
    assert ulimits_of(container(), pod(), node) == node.ulimits
    chosen = ulimits_of(container(ulimits="nofile=15:20,nproc=unlimited"), pod(), node)
    assert [(each.type, each.soft, each.hard) for each in chosen] == [
        ("RLIMIT_NOFILE", 15, 20),
        ("RLIMIT_NPROC", INFINITY, INFINITY),
    ]


@pytest.mark.parametrize(
    ("node", "text", "error", "words"),
    [
        (Options(hard_limits=HARD), "nofile=1:1001", FailedPrecondition, "nofile: 1001 is above .* hard limit 1000"),
        (Options(hard_limits=HARD), "nofile=-1", FailedPrecondition, "nofile: unlimited is above"),
        (
            Options(ulimits=(Rlimit(type="RLIMIT_NPROC", soft=1, hard=2),), hard_limits=HARD),
            "nproc=3",
            FailedPrecondition,
            "nproc: 3 is above the node's hard limit 2; runtime.default_ulimits sets that",
        ),
        (Options(hard_limits=HARD), "files=3", InvalidArgument, "'files' is not one of"),
    ],
)
def test_limits_that_are_refused(node: Options, text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"^container web: annotations\[orlop.dev/ulimits\]: {words}"):
        ulimits_of(container(ulimits=text), pod(), node)


def test_log_rates() -> None:
    assert log_rate_of(container(), pod(), Options()) == 0
    assert log_rate_of(container(), pod(), Options(log_rate=5000)) == 5000
    assert log_rate_of(container(), pod(log_rate="64Ki"), Options()) == 65536
    assert log_rate_of(container(), pod(log_rate_web="2k"), Options(log_rate=5000)) == 2000
    with pytest.raises(FailedPrecondition, match=r"annotations\[orlop.dev/log-rate\]: 64Ki is above the node's 5000"):
        log_rate_of(container(), pod(log_rate="64Ki"), Options(log_rate=5000))
    for text in ("0", "1000", "2Ti", "fast"):
        with pytest.raises(InvalidArgument, match=r"annotations\[orlop.dev/log-rate\]"):
            log_rate_of(container(), pod(log_rate=text), Options())


def test_sizes_of_writable_layers() -> None:
    node, missing = Options(rootfs_bytes=1 << 30), "no quotas here"
    assert rootfs_bytes_of(container(), pod(), node, "") == 1 << 30
    assert rootfs_bytes_of(container(), pod(), node, missing) == 0
    assert rootfs_bytes_of(container(), pod(rootfs_size_web="512Mi"), node, "") == 512 << 20
    assert rootfs_bytes_of(container(), pod(rootfs_size="2Gi"), Options(), "") == 2 << 30
    for text, error, words in (
        ("2Gi", FailedPrecondition, "2Gi is above the node's 1073741824 bytes"),
        ("1k", InvalidArgument, "less than 65536 bytes"),
        ("big", InvalidArgument, "is not a number of bytes"),
    ):
        with pytest.raises(error, match=rf"annotations\[orlop.dev/rootfs-size\]: .*{words}"):
            rootfs_bytes_of(container(rootfs_size=text), pod(), node, "")
    with pytest.raises(FailedPrecondition, match=rf"annotations\[orlop.dev/rootfs-size\]: {missing}"):
        rootfs_bytes_of(container(rootfs_size="1Mi"), pod(), node, missing)


def test_own_limits_are_known() -> None:
    found = own_hard_limits()
    assert len(found) == 16
    assert all(value >= 0 for value in found.values())
