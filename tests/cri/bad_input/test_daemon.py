"""The daemon itself: a configuration with mistakes, directories that can't be used, disks that are full."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop.base.errors import ResourceExhausted
from orlop.cli.client import Client
from orlop.kernel import mount
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, Pod, container_config, pull, sandbox_config
from tests.cri.daemons import TOP, Orlopd
from tests.cri.flow import state_files
from tests.cri.test_pod import wait_for
from tests.images.conformance import BUSYBOX, NGINX

pytestmark = pytest.mark.cri


def orlopd_says(*arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a daemon that should refuse to run."""
    done = subprocess.run(
        [sys.executable, "-m", "orlop.daemon", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
        env={"PYTHONPATH": str(TOP / "src"), "PATH": os.environ["PATH"]},
    )
    return done.returncode, done.stderr


# configuration

MISTAKES = """\
root = "relative"

[registry]
config_pth = "/x"

[network]
bridge = "a-very-long-bridge-name"
subnets = ["10.85.0.0/99"]

[runtime]
cgroup_driver = "sytemd"
default_handler = "nope"

[log]
level = "loud"

[loging]
x = 1

[cni]
bin_dirs = "/x"
"""


def test_every_mistake_has_file_line_and_key(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text(MISTAKES)
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "10-port.toml").write_text("\n[streaming]\nport = 99999\n")
    (tmp_path / "config.d" / "20-syntax.toml").write_text("[log]\nlevel = = 1\n")
    expected = [
        (file, 1, "root: ", "absolute"),
        (file, 4, "registry.config_pth: ", "unknown key; did you mean config_path?"),
        (file, 7, "network.bridge: ", "'a-very-long-bridge-name' is not the name of a network interface"),
        (file, 8, "network.subnets: ", "'10.85.0.0/99' is not a subnet"),
        (file, 11, "runtime.cgroup_driver: ", "'sytemd' is not cgroupfs or systemd"),
        (file, 12, "runtime.default_handler: ", "nope"),
        (file, 15, "log.level: ", "'loud' is not"),
        (file, 17, "loging: ", "unknown key; did you mean log?"),
        (file, 21, "cni.bin_dirs: ", "must be a list of absolute paths"),
        (tmp_path / "config.d" / "10-port.toml", 3, "streaming.port: ", "must be a port"),
        (tmp_path / "config.d" / "20-syntax.toml", 2, "", "invalid value"),
    ]
    for arguments in (("--check-config",), ()):
        code, said = orlopd_says("--config", file, *arguments)
        assert code == 2
        lines = said.splitlines()
        for path, line, key, words in expected:
            assert any(each.startswith(f"{path}:{line}: {key}") and words in each for each in lines), (path, line, said)
        assert len(lines) == len(expected), said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--check-config", "--config", "/nonexistent/orlop.toml"), 2, "/nonexistent/orlop.toml: does not exist"),
        (("--check-config", "--config", "/etc"), 2, "/etc: cannot be read: Is a directory"),
        (("--listen", "tcp://127.0.0.1:1"), 2, "--listen: 'tcp://127.0.0.1:1' is not unix:///PATH"),
        (("--listen", "unix:///" + "x" * 200), 2, "--listen: the path is longer than 107 bytes"),
        (("--log-level", "loud"), 2, "invalid choice: 'loud'"),
        (("--nosuch",), 2, "unrecognized arguments: --nosuch"),
    ],
)
def test_arguments(arguments, code, words):
    assert orlopd_says(*arguments)[0] == code
    assert words in orlopd_says(*arguments)[1]


# directories


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory that nobody can write to, root neither."""
    directory = tmp_path / "read-only"
    directory.mkdir()
    mount.mount("tmpfs", str(directory), "tmpfs", mount.MS_RDONLY, None)
    yield directory
    mount.umount2(str(directory), mount.MNT_DETACH)


def test_directories_that_cannot_be_used(tmp_path: Path, read_only: Path):
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "file").write_text("")
    for which, path, reason in (
        ("root", read_only, "Read-only file system"),
        ("root", tmp_path / "file" / "below", "Not a directory"),
        ("state", read_only / "below", "Read-only file system"),
        ("state", tmp_path / "file", "File exists"),
    ):
        directories = {"root": tmp_path / "root", "state": tmp_path / "state", which: path}
        flags = [word for name, value in directories.items() for word in (f"--{name}", value)]
        listen = f"unix://{tmp_path}/cri.sock"
        code, said = orlopd_says("--config", tmp_path / "config.toml", *flags, "--listen", listen)
        assert code == 1
        assert re.search(f"cannot run: {which} directory {path}: cannot be used: {reason}", said), said
        assert "Traceback" not in said
        assert not (tmp_path / "cri.sock").exists()


def test_a_socket_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path / "file", "something that is not a socket is in its place"),
        (Path("/proc/nosuch/cri.sock"), "its directory cannot be made: No such file"),
    ):
        code, said = orlopd_says(
            *("--config", tmp_path / "config.toml", "--root", tmp_path / "root"),
            *("--state", tmp_path / "state", "--listen", f"unix://{path}"),
        )
        assert code == 1
        assert f"cannot run: socket {path}: {words}" in said
        assert "Traceback" not in said


def test_directories_that_another_daemon_has(orlopd, tmp_path: Path):
    (tmp_path / "config.toml").write_text("")
    for which, name in ((orlopd.root, "root"), (orlopd.state, "state")):
        directories = {"root": tmp_path / "root", "state": tmp_path / "state", name: which}
        flags = [word for key, value in directories.items() for word in (f"--{key}", value)]
        listen = f"unix://{tmp_path}/cri.sock"
        code, said = orlopd_says("--config", tmp_path / "config.toml", *flags, "--listen", listen)
        assert code == 1
        assert f"cannot run: {name} directory {which}: another orlopd is using it" in said


# full disks


def fill(directory: Path) -> Path:
    """Take all that is left of a small file system."""
    path = directory / "orlop-test-fill"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (65536, 4096, 512):
            try:
                while True:
                    os.write(fd, b"x" * size)
            except OSError:
                continue
    finally:
        os.close(fd)
    return path


@pytest.fixture
def small(registry) -> Iterator[Orlopd]:
    """A daemon with 6 MiB for images and 3 MiB for pods."""
    daemon = Orlopd(registry.certs_d, name="small")
    mounted = {daemon.root: "size=6m", daemon.state: "size=3m"}
    for path, options in mounted.items():
        mount.mount("tmpfs", str(path), "tmpfs", 0, options)
    try:
        with daemon:
            yield daemon
    finally:
        for path in mounted:
            if os.path.ismount(path):
                mount.umount2(str(path), mount.MNT_DETACH)
        for path in mounted:
            if path.exists() and not any(path.iterdir()):
                path.rmdir()


def test_full_disks(small):
    """What finds no room is RESOURCE_EXHAUSTED and leaves nothing; an exit in the meantime is not lost; with room all is as before."""
    with Client(small.address) as client:
        pull(client, BUSYBOX)
        with pytest.raises(ResourceExhausted, match=f"(?i)image {NGINX}: .*no space left"):
            pull(client, NGINX)
        for name in ("staging", "content/ingests"):
            assert os.listdir(small.root / name) == [], "what is of no use takes nobody's room"
        config = sandbox_config("host")
        config.linux.cgroup_parent = small.cgroup_parent
        pod = Pod.run(client, config)
        wait = "while ! test -e /tmp/go; do sleep 0.02; done; exit 7"
        container = pod.launch(container_config("brief", ["sh", "-c", wait]))
        scope, before, files_before = small.scope(), small.scope().take(), state_files(small)

        filled = fill(small.state)
        with pytest.raises(ResourceExhausted, match="sandbox bad: "):
            Pod.run(client, sandbox_config("bad"))
        with pytest.raises(ResourceExhausted, match="container bad: "):
            pod.create(container_config("bad"))
        assert pod.exec(container, "touch", "/tmp/go").exit_code == 0
        pid = info_of(client, container)["pid"]
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the container did not end")
        filled.unlink()
        assert scope.settle(before) == {}
        assert {each for each in state_files(small) - files_before if each.startswith("pods/")} == set()
        pod.stop_container(container)
        status = pod.container_status(container)
        assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 7, "Error")

        filled = fill(small.root)
        with pytest.raises(ResourceExhausted, match=f"(?i)image {NGINX}: .*no space left"):
            pull(client, NGINX)
        filled.unlink()
        again = pod.launch(container_config("again"))
        assert pod.exec(again, "echo", "here").stdout == b"here\n"
        pod.remove()
        assert client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items == []


def info_of(client: Client, container: str) -> dict[str, Any]:
    request = cri.ContainerStatusRequest(container_id=container, verbose=True)
    answer = client.runtime.ContainerStatus(request, timeout=CALL_SECONDS)
    found: dict[str, Any] = json.loads(answer.info["info"])
    return found
