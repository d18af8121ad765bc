"""A pod over CRI, from pull to removal, on a real orlopd: run, exec, log, status, stats, kill -9 of the daemon, stop, remove."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import Pod, container_config, pull, sandbox_config
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri


def lines_of(log: Path) -> list[str]:
    """The text of a CRI log's complete lines."""
    return [line.split(" ", 3)[3] for line in log.read_text().splitlines() if line.count(" ") >= 3]


def wait_for(condition, what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_exec_sees_the_container(pod, container):
    answer = pod.exec(container, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)


def test_status_tells_what_was_asked(pod, container):
    assert pod.status().state == cri.SANDBOX_READY
    assert pod.status().network.ip
    status = pod.container_status(container)
    assert status.state == cri.CONTAINER_RUNNING
    assert status.metadata.name == "main"
    assert status.image_id


def test_exit_code_and_log_of_a_container_that_ends(pod, orlopd):
    made = pod.launch(container_config("brief", ["sh", "-c", "echo one; echo two; exit 7"]))
    wait_for(lambda: pod.container_status(made).state == cri.CONTAINER_EXITED, "it did not end")
    status = pod.container_status(made)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert lines_of(Path(pod.config.log_directory) / "brief.log") == ["one", "two"]


def test_a_pod_outlives_kill_of_the_daemon(pod, orlopd):
    counter = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done"
    made = pod.launch(container_config("count", ["sh", "-c", counter]))
    log = Path(pod.config.log_directory) / "count.log"
    wait_for(lambda: log.exists() and len(lines_of(log)) > 5, "it did not count")
    orlopd.kill()
    try:
        already = len(lines_of(log))
        wait_for(lambda: len(lines_of(log)) > already + 5, "the log stopped with the daemon")
    finally:
        orlopd.start()
    assert pod.container_status(made).state == cri.CONTAINER_RUNNING
    assert pod.exec(made, "echo", "back").stdout == b"back\n"
    found = [int(line) for line in lines_of(log)]
    assert found == list(range(len(found))), "a line was lost or doubled"


def test_a_retry_of_run_meets_the_same_sandbox_or_is_refused_by_name(client):
    pull(client, BUSYBOX)
    config = sandbox_config()
    first = Pod.run(client, config)
    try:
        listed = client.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
        assert [each.id for each in listed if each.metadata.name == config.metadata.name] == [first.id]
    finally:
        first.remove()


def test_stopping_and_removing_twice_is_no_error(client):
    made = Pod.run(client, sandbox_config())
    for _ in range(2):
        made.remove()
    listed = client.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items
    assert made.id not in [each.id for each in listed]
