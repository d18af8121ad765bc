"""crictl, the operator's client of the CRI, drives a whole life of a pod: every command that issue 3 names."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cri.daemons import Daemon
from tests.images.conformance import BUSYBOX
from tests.tools.build import tool

pytestmark = pytest.mark.cri
Crictl = Callable[..., str]


@pytest.fixture
def crictl(orlopd: Daemon, tmp_path: Path) -> Crictl:
    config = tmp_path / "crictl.yaml"
    config.write_text(f"runtime-endpoint: {orlopd.address}\nimage-endpoint: {orlopd.address}\ntimeout: 30\n")

    def run(*arguments: object) -> str:
        command = [tool("crictl"), "--config", str(config), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"crictl {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout.strip()

    return run


def written(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_the_whole_flow(crictl, orlopd, tmp_path):
    sandbox = {
        "metadata": {"name": "web", "uid": "crictl-1", "namespace": "default", "attempt": 0},
        "hostname": "web",
        "log_directory": str(orlopd.logs / "crictl"),
        "linux": {},
    }
    container = {
        "metadata": {"name": "main"},
        "image": {"image": BUSYBOX},
        "command": ["sh", "-c", "echo ready to serve; exec sleep 3600"],
        "log_path": "main.log",
        "linux": {"resources": {"memory_limit_in_bytes": 64 << 20}},
    }
    pod_file, container_file = written(tmp_path / "pod.json", sandbox), written(tmp_path / "main.json", container)

    assert orlopd.kind in crictl("version")
    assert BUSYBOX.rsplit(":", 1)[0] in crictl("pull", BUSYBOX) or crictl("inspecti", BUSYBOX)
    assert "busybox" in crictl("images")
    image = json.loads(crictl("inspecti", BUSYBOX))
    assert BUSYBOX in image["status"]["repoTags"]
    assert json.loads(crictl("imagefsinfo"))["status"]["imageFilesystems"][0]["usedBytes"]["value"] != "0"

    pod = crictl("runp", pod_file)
    assert pod[:13] in crictl("pods", "--name", "web")
    made = crictl("create", pod, container_file, pod_file)
    crictl("start", made)
    assert made[:13] in crictl("ps")
    assert crictl("exec", "--sync", made, "echo", "in the container") == "in the container"
    deadline = time.monotonic() + 10
    while "ready to serve" not in crictl("logs", made):
        assert time.monotonic() < deadline, "the log line did not come"
    assert made[:13] in crictl("stats")
    assert pod[:13] in crictl("statsp")
    declared = {each["name"] for each in json.loads(crictl("metricdescs"))["descriptors"]}
    (metrics,) = json.loads(crictl("metricsp"))["podMetrics"]
    assert metrics["podSandboxId"] == pod
    everything = [*metrics["metrics"], *metrics["containerMetrics"][0]["metrics"]]
    assert {each["name"] for each in everything} <= declared
    info = json.loads(crictl("info"))
    assert info["config"]["stateDir"] == str(orlopd.state)
    status = json.loads(crictl("inspect", made))
    assert status["status"]["state"] == "CONTAINER_RUNNING"
    assert json.loads(crictl("inspectp", pod))["status"]["state"] == "SANDBOX_READY"

    crictl("update", "--memory", 96 << 20, made)
    resources = json.loads(crictl("inspect", made))["status"]["resources"]["linux"]
    assert int(resources["memoryLimitInBytes"]) == 96 << 20

    crictl("stop", "--timeout", 1, made)
    assert json.loads(crictl("inspect", made))["status"]["state"] == "CONTAINER_EXITED"
    crictl("rm", made)
    assert made[:13] not in crictl("ps", "--all")
    crictl("stopp", pod)
    crictl("rmp", pod)
    assert pod[:13] not in crictl("pods")
    crictl("rmi", BUSYBOX)
    assert "busybox" not in crictl("images")


def test_what_is_unknown_is_said_so(crictl, orlopd):
    with pytest.raises(AssertionError, match=r"(?i)not.?found"):
        crictl("inspect", "0123456789ab")
