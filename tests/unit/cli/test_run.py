"""orlop run: docker's options become CRI configs; what can't be is refused by the option's name."""

import argparse
from pathlib import Path

import pytest

from orlop.base.errors import Internal, InvalidArgument
from orlop.cli import run
from orlop.cli.__main__ import word_parser
from orlop.specs.cri_gen import api_pb2 as pb


def parsed(*words: str) -> argparse.Namespace:
    return word_parser("run").parse_args(list(words))


def container(*words: str) -> pb.ContainerConfig:
    return run.container_config(parsed(*words), "n", Path("/var/log/orlop/n-1"))


def sandbox(*words: str) -> pb.PodSandboxConfig:
    return run.sandbox_config(parsed(*words), "n", Path("/var/log/orlop/n-1"))


def test_options_end_at_the_image():
    options = parsed("-it", "--rm", "-e", "A=1", "busybox", "sh", "-c", "echo -d --name x")
    assert (options.image, options.command) == ("busybox", ["sh", "-c", "echo -d --name x"])
    assert (options.interactive, options.tty, options.rm, options.detach, options.name) == (True, True, True, False, "")
    assert parsed("busybox", "--help").command == ["--help"]
    assert parsed("busybox").command == []


def test_command_and_entrypoint():
    assert list(container("img", "a", "b").args) == ["a", "b"]
    made = container("--entrypoint", "/bin/sh", "img", "-c", "x")
    assert (list(made.command), list(made.args)) == (["/bin/sh"], ["-c", "x"])


def test_environment(tmp_path, monkeypatch):
    file = tmp_path / "env"
    file.write_bytes(b"# comment\nA=file\nB=\xff\xfe\n\nHOME_X\n")
    monkeypatch.setenv("HOME_X", "here")
    monkeypatch.delenv("GONE", raising=False)
    made = container("--env-file", str(file), "-e", "A=option", "-e", "GONE", "-e", "E=", "img")
    assert {each.key: each.value for each in made.envs} == {
        "A": b"option",
        "B": b"\xff\xfe",
        "HOME_X": b"here",
        "E": b"",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", [("", 8080, 80, pb.TCP)]),
        ("127.0.0.1:53:53/udp", [("127.0.0.1", 53, 53, pb.UDP)]),
        ("[::1]:53:5353/sctp", [("::1", 53, 5353, pb.SCTP)]),
        ("8000-8001:80-81", [("", 8000, 80, pb.TCP), ("", 8001, 81, pb.TCP)]),
    ],
)
def test_ports(text, expected):
    found = [(each.host_ip, each.host_port, each.container_port, each.protocol) for each in run.ports(text)]
    assert found == expected


@pytest.mark.parametrize(
    "text", ["80", ":80", "0:80", "70000:80", "1-2:3", "a:b", "80:80/icmp", "2-1:2-1", "127.0.0.1::80"]
)
def test_ports_that_are_refused(text):
    with pytest.raises(InvalidArgument, match="-p: "):
        run.ports(text)


def test_mounts(monkeypatch):
    monkeypatch.chdir("/tmp")
    made = run.mount("./data:/data:ro,rslave,noexec")
    assert (made.host_path, made.container_path, made.readonly) == ("/tmp/data", "/data", True)
    assert made.propagation == pb.PROPAGATION_HOST_TO_CONTAINER
    assert list(made.mount_options) == ["noexec"]
    for text in ("data:/data", "/a", "/a:b", "/a:/b:what"):
        with pytest.raises(InvalidArgument, match="-v: "):
            run.mount(text)


def test_security():
    context = container(
        "-u", "1000:50", "--cap-add", "cap_net_admin", "--cap-drop", "ALL", "--read-only", "img"
    ).linux.security_context
    assert (context.run_as_user.value, context.run_as_group.value) == (1000, 50)
    assert list(context.capabilities.add_capabilities) == ["NET_ADMIN"]
    assert context.readonly_rootfs
    assert context.seccomp.profile_type == pb.SecurityProfile.RuntimeDefault
    assert "/proc/kcore" in context.masked_paths
    named = container("-u", "www-data", "img").linux.security_context
    assert named.run_as_username == "www-data"
    assert not named.HasField("run_as_user")
    privileged = container("--privileged", "img").linux.security_context
    assert privileged.seccomp.profile_type == pb.SecurityProfile.Unconfined
    assert not privileged.masked_paths
    options = container(
        "--security-opt", "no-new-privileges", "--security-opt", "seccomp=/p.json", "img"
    ).linux.security_context
    assert options.no_new_privs
    assert options.seccomp.localhost_ref == "/p.json"
    with pytest.raises(InvalidArgument, match="--security-opt"):
        container("--security-opt", "label=disable", "img")
    with pytest.raises(InvalidArgument, match="-u"):
        container("-u", "root:wheel", "img")


def test_namespaces():
    assert sandbox("img").linux.security_context.namespace_options.pid == pb.CONTAINER
    assert sandbox("--init", "img").linux.security_context.namespace_options.pid == pb.POD
    host = sandbox("--network", "host", "--pid", "host", "--ipc", "host", "img")
    options = host.linux.security_context.namespace_options
    assert (options.network, options.pid, options.ipc) == (pb.NODE, pb.NODE, pb.NODE)
    assert host.hostname == ""
    with pytest.raises(InvalidArgument, match="--network"):
        sandbox("--network", "none", "img")
    with pytest.raises(InvalidArgument, match="-p: "):
        sandbox("--network", "host", "-p", "80:80", "img")


def test_resources():
    made = container("-m", "512m", "--memory-swap", "-1", "--cpus", "1.5", "-c", "512", "img").linux.resources
    assert (made.memory_limit_in_bytes, made.memory_swap_limit_in_bytes) == (512 << 20, -1)
    assert (made.cpu_quota, made.cpu_period, made.cpu_shares) == (150_000, 100_000, 512)
    with pytest.raises(InvalidArgument, match="--cpus"):
        container("--cpus", "0", "img")
    with pytest.raises(InvalidArgument, match="--memory"):
        container("-m", "lots", "img")


def test_names_and_marks():
    made = sandbox("-l", "a=b", "-h", "box", "img")
    assert (made.hostname, made.labels["a"], made.labels["io.orlop.cli"]) == ("box", "b", "run")
    with pytest.raises(InvalidArgument, match="--name"):
        run.sandbox_config(parsed("img"), "-x", Path("/"))
    assert run.NAME.fullmatch(run.random_name())


def test_devices_and_stop_signal():
    assert run.device("/dev/fuse").permissions == "rwm"
    made = run.device("/dev/a:/dev/b:r")
    assert (made.host_path, made.container_path, made.permissions) == ("/dev/a", "/dev/b", "r")
    with pytest.raises(InvalidArgument, match="--device"):
        run.device("dev/a")
    assert [run.is_cdi(each) for each in ("vendor.com/gpu=0", "/dev/a=b", "dev/a")] == [True, False, False]
    assert container("--stop-signal", "QUIT", "img").stop_signal == pb.SIGNAL_SIGQUIT


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("container 4f2a: exec: /bin/nope: no such file or directory", 127),
        ("container 4f2a: exec: /etc/passwd: permission denied", 126),
        ("container 4f2a: exec: /x: exec format error", 126),
        ("container 4f2a: mount: /nope: no such file or directory", 125),
    ],
)
def test_exit_codes(message, code):
    assert run.exit_code_of(Internal(message)) == code
