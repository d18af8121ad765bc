"""orlop plan on bundles: needs no daemon and no root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orlop.cli.__main__ import main
from orlop.cli.plan import plan_container
from orlop.specs import runtime as oci

CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {"cwd": "/", "args": ["sh"], "env": ["TOKEN=secret"]},
    "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}],
    "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_text(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--bundle", str(bundle), "--cgroup", "v2"]) == 0
    text = capsys.readouterr().out
    assert f"rootfs           source={bundle}/rootfs" in text
    assert "source=/sys/fs/cgroup target=/sys/fs/cgroup" in text
    assert "instructions sha256:" in text
    assert "TOKEN" in text
    assert "secret" not in text


def test_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-b", str(bundle), "--format", "json", "--show-values"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [op["op"] for op in plan["ops"]][-1] == "exec"
    assert plan["ops"][-1]["envp"] == ["TOKEN=secret"]


def test_cgroup_v1_shows_the_hosts_hierarchies(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-b", str(bundle), "--cgroup", "v1"]) == 0
    assert "fstype=tmpfs source=cgroup target=/sys/fs/cgroup" in capsys.readouterr().out


def test_errors_name_the_bundle_and_the_property(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-b", str(bundle / "none")]) == 1
    assert "config.json cannot be read: No such file" in capsys.readouterr().err
    (bundle / "config.json").write_text(json.dumps({**CONFIG, "mounts": [{"destination": "x", "type": "tmpfs"}]}))
    assert main(["plan", "-b", str(bundle)]) == 1
    assert "mounts[0].destination: 'x' is not an absolute path" in capsys.readouterr().err


def test_a_container_of_the_daemon_is_planned_with_the_namespaces_of_its_pod() -> None:
    spec = oci.RuntimeSpec(
        oci_version="1.3.0",
        root=oci.Root(path="rootfs"),
        process=oci.Process(cwd="/", args=("sh",)),
        mounts=(oci.Mount(destination="/dev/shm", type="tmpfs", source="shm"),),
        linux=oci.Linux(
            namespaces=(
                oci.Namespace(type="mount"),
                *(oci.Namespace(type=kind, path="/proc/1/ns/x") for kind in ("network", "ipc", "uts", "pid")),
            )
        ),
    )
    plan = plan_container("c", oci.to_json(spec), "v2")
    names = [op.opname for op in plan.ops]
    assert "join_pod_init" in names
    assert "setns" not in names
    assert plan.fds == ("cgroup", "rootfs", "pod.shm")
