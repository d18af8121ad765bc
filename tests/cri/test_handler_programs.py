"""Programs of handlers that are slow, broken or gone, and configurations that change while pods live."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from orlop.base.errors import FailedPrecondition, Internal, OrlopError
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import Pod, container_config, pull
from tests.cri.daemons import Orlopd
from tests.cri.flow import left_over, pod_config, state_files
from tests.cri.harness import Source
from tests.cri.test_handlers import PROGRAMS, ended, handler_config
from tests.cri.test_pod import wait_for
from tests.images.conformance import BUSYBOX

pytestmark = [pytest.mark.cri, pytest.mark.timeout(120)]

SLOW = """#!/bin/sh
for word; do
    if [ -e {directory}/slow-$word ]; then
        touch {directory}/waits
        until [ -e {directory}/go ]; do sleep 0.02; done
    fi
done
exec {program} "$@"
"""
BROKEN = """#!/bin/sh
case "$*" in *--version*) echo broken version 1.0; exit;; *features*) exit 1;; esac
while [ "$1" != --log ]; do shift; done
echo '{"level":"warning","msg":"first"}' >> "$2"
echo '{"level":"error","msg":"the moon is full"}' >> "$2"
exit 1
"""
NONSENSE = "#!/bin/sh\necho what\n"


class Programs:
    """A daemon of its own with handlers whose programs are scripts."""

    def __init__(self, daemon: Orlopd, directory: Path) -> None:
        self.daemon = daemon
        self.directory = directory
        for name, text in (
            ("slow", SLOW.format(directory=directory, program=PROGRAMS["crun"])),
            ("broken", BROKEN),
            ("nonsense", NONSENSE),
        ):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)

    def configure(self, default: str, *names: str) -> None:
        self.daemon.more_config = f'\n[runtime]\ndefault_handler = "{default}"\n' + handler_config(
            **{name: str(self.directory / name) for name in names}
        )

    def restart(self, default: str, *names: str) -> None:
        self.configure(default, *names)
        self.daemon.kill()
        self.daemon.start()


@pytest.fixture(scope="module")
def programs(registry: Source, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    daemon = Orlopd(registry.certs_d, name="programs")
    made = Programs(daemon, tmp_path_factory.mktemp("programs"))
    made.configure("slow", "slow", "broken", "nonsense")
    with daemon:
        with Client(daemon.address) as client:
            pull(client, BUSYBOX)
        scope = daemon.scope()
        before, files_before = scope.take(), state_files(daemon)
        yield made
        daemon.remove_pods()
        assert left_over(daemon, scope, before, files_before) == {}


@pytest.fixture
def client(programs: Programs) -> Iterator[Client]:
    with Client(programs.daemon.address) as connected:
        yield connected


def run(client: Client, programs: Programs, handler: str = "") -> Pod:
    return Pod.run(client, pod_config(programs.daemon, f"pod-{os.urandom(4).hex()}"), handler)


def test_what_the_program_says_is_in_the_error_and_nothing_is_left(client, programs):
    pod = run(client, programs, "broken")
    with pytest.raises(Internal, match="^container main: handler broken: create: the moon is full$"):
        pod.create(container_config())
    assert list((programs.daemon.state / "pods" / pod.id / "bundles").iterdir()) == []
    assert list(client.runtime.ListContainers(cri.ListContainersRequest()).containers) == []
    pod.remove()


def test_a_program_that_is_none_makes_its_handler_unavailable(client, programs):
    with pytest.raises(FailedPrecondition, match="nonsense: --version: 'what' names no version"):
        run(client, programs, "nonsense")


def test_the_command_line_knows_handlers(programs):
    def orlop(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "orlop.cli", "--address", programs.daemon.address, *words]
        return subprocess.run(command, capture_output=True, timeout=60, check=False)

    ran = orlop("run", "--rm", "--network", "host", "--runtime", "slow", BUSYBOX, "sh", "-c", "echo here; exit 3")
    assert (ran.stdout, ran.returncode) == (b"here\n", 3), ran.stderr
    assert orlop("run", "--rm", "--network", "host", "--runtime", "slow", BUSYBOX, "/nope").returncode == 127
    looked = json.loads(orlop("doctor", "--format", "json").stdout)
    verdicts = {each["name"]: each["verdict"] for each in looked["daemon"]}
    assert verdicts["handler slow"] == "ok"
    assert verdicts["handler nonsense"] == "limited"


@contextlib.contextmanager
def while_it_waits(programs: Programs, verb: str, call: object) -> Iterator[None]:
    """Make a call whose program waits at ``verb``; what the body does happens meanwhile."""

    def asking() -> None:
        with contextlib.suppress(grpc.RpcError, OrlopError):
            call()  # type: ignore[operator]

    (programs.directory / f"slow-{verb}").touch()
    thread = threading.Thread(target=asking)
    thread.start()
    try:
        wait_for((programs.directory / "waits").exists, "the program was not run")
        yield
    finally:
        (programs.directory / f"slow-{verb}").unlink()
        (programs.directory / "go").touch()
        thread.join(30)
        for name in ("waits", "go"):
            (programs.directory / name).unlink(missing_ok=True)


def test_a_daemon_that_dies_during_a_create_leaves_nothing_of_it(client, programs):
    pod = run(client, programs, "slow")
    with while_it_waits(programs, "create", lambda: pod.create(container_config())):
        programs.restart("slow", "slow")
        assert list((programs.daemon.state / "pods" / pod.id / "bundles").iterdir()) == []
    assert list(client.runtime.ListContainers(cri.ListContainersRequest()).containers) == []
    made = pod.launch(container_config())
    assert pod.exec(made, "echo", "again").stdout == b"again\n"
    pod.remove()


def test_a_start_that_the_daemon_did_not_live_to_see_is_seen_by_the_next(client, programs):
    pod = run(client, programs, "slow")
    made = pod.create(container_config("brief", ["sh", "-c", "echo begun; sleep 1000"]))
    with while_it_waits(programs, "start", lambda: pod.start(made)):
        programs.daemon.kill()
        (programs.directory / "go").touch()
        programs.daemon.start()
        wait_for(lambda: pod.container_status(made).state == cri.CONTAINER_RUNNING, "its start is not known")
    with pytest.raises(FailedPrecondition):
        pod.start(made)
    pod.remove()


def test_a_container_that_is_removed_while_its_program_runs(client, programs):
    pod = run(client, programs, "slow")
    with while_it_waits(programs, "create", lambda: pod.create(container_config())):
        pod.remove()
    assert not (programs.daemon.state / "pods" / pod.id).exists()


def test_a_pod_keeps_its_handler_when_the_configuration_changes(client, programs):
    pod = run(client, programs)
    made = pod.launch(container_config())
    assert pod.status().runtime_handler == ""
    bundle = programs.daemon.state / "pods" / pod.id / "bundles" / made
    assert bundle.is_dir()

    programs.restart("orlop", "slow")
    assert pod.exec(made, "echo", "still").stdout == b"still\n"
    assert (programs.daemon.state / "pods" / pod.id / "bundles" / pod.launch(container_config("other"))).is_dir()
    plain = run(client, programs)
    plain.launch(container_config())
    assert not (programs.daemon.state / "pods" / plain.id / "bundles").exists()
    plain.remove()

    programs.restart("orlop")
    with pytest.raises(FailedPrecondition, match="was made by handler 'slow', which the configuration has no more"):
        pod.exec(made, "echo", "no")
    with pytest.raises(FailedPrecondition, match="which the configuration has no more"):
        pod.create(container_config("third"))
    pod.stop_container(made, timeout=1)
    assert ended(pod, made).exit_code == 143
    pod.remove()
    assert not (programs.daemon.state / "pods" / pod.id).exists()
    programs.restart("orlop", "slow", "broken", "nonsense")
