"""CRI config -> runtime spec -> plan -> the real kernel: what a container of a pod sees and may do."""

from __future__ import annotations

import errno
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orlop.oci.compile import Facts, compile_container, compile_exec
from orlop.oci.kernelnames import CAPABILITIES, capability_mask
from orlop.oci.ops import Plan
from orlop.security.profiles import compile_profile
from orlop.services.containers.spec import build_spec
from orlop.services.containers.spec_inputs import Host, ImageDefaults, PodFiles
from orlop.services.containers.spec_process import build_exec_process
from orlop.services.containers.spec_security import DEFAULT_CAPABILITIES, choose_seccomp
from orlop.services.containers.user import ResolvedUser
from orlop.specs import pod
from orlop.specs import runtime as oci
from tests.kernel.executor.harness import ROOT, Box, Outcome

pytestmark = pytest.mark.kernel

BUSYBOX = Path("/usr/bin/busybox")
OUT = ROOT / "build/native/tests"
LAST = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
BOUND = int(
    next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")).split()[1],
    16,
)
HOST = Host(
    capabilities=tuple(name for bit, name in enumerate(CAPABILITIES) if BOUND >> bit & 1),
    hostname="node",
    cgroup_v2=False,
)
OWN_PID = pod.NamespaceOptions(pid=pod.NamespaceMode.CONTAINER)
DEFAULT_SECCOMP = pod.SecurityProfile()
MASKED = ("/proc/keys", "/proc/acpi", "/sys/firmware", "/not/there")
READONLY = ("/proc/sys", "/not/there/either")


@dataclass(frozen=True)
class Compiled:
    plan: Plan
    spec: oci.RuntimeSpec
    facts: Facts


def compiled(
    *command: str,
    user: ResolvedUser | None = None,
    mounts: tuple[pod.Mount, ...] = (),
    files: PodFiles | None = None,
    **security: Any,
) -> Compiled:
    wanted = pod.ContainerSecurity(
        **{
            "namespaces": OWN_PID,
            "masked_paths": MASKED,
            "readonly_paths": READONLY,
            "seccomp": DEFAULT_SECCOMP,
            **security,
        }
    )
    config = pod.ContainerConfig(
        metadata=pod.ContainerMetadata(name="c"),
        command=command,
        envs=(pod.KeyValue(key="GREETING", value=b"hello there"),),
        mounts=mounts,
        security=wanted,
        resources=pod.LinuxResources(oom_score_adj=100),
        working_dir="/work/deep",
    )
    sandbox = pod.SandboxConfig(
        metadata=pod.SandboxMetadata(name="p"),
        hostname="web",
        security=pod.SandboxSecurity(namespaces=OWN_PID, privileged=wanted.privileged),
    )
    profile = choose_seccomp(wanted, HOST)
    built = build_spec(
        config,
        sandbox,
        ImageDefaults(env=("PATH=/bin",)),
        user=user or ResolvedUser(),
        host=HOST,
        files=files or PodFiles(),
        profile=profile,
    )
    facts = msgspec.structs.replace(
        built.facts("c"), cgroup_v2=False, trees={}, clamp_limits=True, last_capability=LAST
    )
    if profile is not None:
        found = compile_profile(profile)
        facts = msgspec.structs.replace(facts, seccomp_filter=found.bpf, seccomp_flags=found.flags)
    return Compiled(compile_container(built.spec, facts), built.spec, facts)


def run(box: Box, made: Compiled, *, exec_plan: Plan | None = None) -> Outcome:
    outcome = box.run(made.plan.ops, exec_ops=exec_plan.ops if exec_plan is not None else ())
    assert not outcome.has("failed"), outcome.events
    return outcome


def shell(box: Box, script: str, **rest: Any) -> str:
    if not BUSYBOX.exists():
        pytest.skip("no busybox (Debian package busybox-static)")
    shutil.copy(BUSYBOX, box.lower / "bin/busybox")
    return run(box, compiled("/bin/busybox", "sh", "-c", script, **rest)).out


def status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def built_probe() -> Path:
    source, target = Path(__file__).parent / "probe.c", OUT / "probe"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        OUT.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-static", "-O1", "-o", target, source, "-lpthread"], check=True)
    return target


def probe(box: Box, **rest: Any) -> dict[str, int]:
    shutil.copy(built_probe(), box.lower / "bin/probe")
    lines = run(box, compiled("/bin/probe", **rest)).out.splitlines()
    return {name: int(number) for name, number in (line.split() for line in lines)}


def test_a_default_container_has_what_its_config_says(box: Box) -> None:
    found = status(shell(box, "cat /proc/self/status"))
    expected = capability_mask(DEFAULT_CAPABILITIES) & BOUND
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {expected}
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert (found["Seccomp"], found["NoNewPrivs"], found["Groups"]) == ("2", "0", "0")


def test_a_restricted_container(box: Box) -> None:
    user = ResolvedUser(uid=1000, gid=1001, groups=(1001, 2000), home="/home/u")
    script = "cat /proc/self/status; touch /x 2>&1; echo home=$HOME"
    text = shell(
        box, script, user=user, no_new_privs=True, readonly_rootfs=True, capabilities=pod.Capabilities(drop=("ALL",))
    )
    found = status(text)
    assert all(int(found[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert (found["Seccomp"], found["NoNewPrivs"], found["Groups"]) == ("2", "1", "1001 2000")
    assert found["Uid"].split() == ["1000"] * 4 and found["Gid"].split() == ["1001"] * 4
    assert "touch: /x: Read-only file system" in text
    assert "home=/home/u" in text


def test_ambient_capabilities_reach_a_user(box: Box) -> None:
    user = ResolvedUser(uid=1000, gid=1000, groups=(1000,))
    wanted = pod.Capabilities(drop=("ALL",), add_ambient=("NET_BIND_SERVICE",))
    found = status(shell(box, "cat /proc/self/status", user=user, capabilities=wanted))
    bit = capability_mask(["CAP_NET_BIND_SERVICE"])
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")} == {bit}


def test_what_is_hidden_and_what_is_read_only(box: Box) -> None:
    # "true >file" opens for writing and writes nothing: if a path were not protected, this machine must not find out.
    text = shell(
        box,
        "wc -c </proc/keys; ls -A /sys/firmware | wc -l; true >/proc/sys/kernel/panic; mkdir /sys/x; "
        "touch /dev/new && echo dev-writable; pwd; echo $GREETING; umask; ls -ld /dev/null; readlink /dev/fd",
    )
    lines = text.splitlines()
    assert lines[:2] == ["0", "0"]
    for path in ("/proc/sys/kernel/panic", "/sys/x"):
        assert any(path in line and "read-only" in line.lower() for line in lines), (path, lines)
    assert "dev-writable" in lines and "/work/deep" in lines and "hello there" in lines and "0022" in lines
    assert any(line.startswith("crw-rw-rw-") for line in lines)
    assert "/proc/self/fd" in lines


def test_mounts_of_a_config(box: Box) -> None:
    (box.host / "sub").mkdir()
    (box.host / "file").write_text("of the host\n")
    (box.host / "hosts").write_text("127.0.0.1 localhost\n")
    wanted = (
        pod.Mount(container_path="/ro", host_path=str(box.host), readonly=True, recursive_read_only=True),
        pod.Mount(container_path="/rw", host_path=str(box.host), mount_options=("noexec", "nosuid", "nodev")),
        pod.Mount(container_path="/rw/sub/file", host_path=str(box.host / "file"), readonly=True),
    )
    text = shell(
        box,
        "cat /ro/file; touch /ro/x; touch /rw/made; echo x >/rw/sub/file; grep ' /rw ' /proc/self/mountinfo; cat /etc/hosts; "
        "cp /bin/busybox /rw/b; /rw/b true; rm /rw/b",
        mounts=wanted,
        files=PodFiles(hosts=str(box.host / "hosts")),
    )
    assert text.startswith("of the host\n")
    assert text.count("Read-only file system") == 2
    assert "rw,nosuid,nodev,noexec" in text
    assert "127.0.0.1 localhost" in text
    assert "/rw/b: Permission denied" in text
    assert (box.host / "made").exists()


def test_privileged(box: Box) -> None:
    text = shell(
        box,
        "cat /proc/self/status; mount -t tmpfs none /tmp && echo mounted; true",
        privileged=True,
    )
    found = status(text)
    assert int(found["CapEff"], 16) == BOUND
    assert found["Seccomp"] == "0"
    assert "mounted" in text


def test_exec_is_as_confined_as_its_container(box: Box) -> None:
    if not BUSYBOX.exists():
        pytest.skip("no busybox (Debian package busybox-static)")
    shutil.copy(BUSYBOX, box.lower / "bin/busybox")
    made = compiled("/bin/busybox", "sh", "-c", "sleep 1")
    process = build_exec_process(
        made.spec, ("/bin/busybox", "sh", "-c", "cat /proc/self/status; pwd; hostname"), tty=False
    )
    plan = compile_exec(process, made.spec, made.facts)
    text = run(box, made, exec_plan=plan).out
    found = status(text)
    expected = capability_mask(DEFAULT_CAPABILITIES) & BOUND
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == expected
    assert found["Seccomp"] == "2"
    # Its PID namespace is the container's, in which the container's init is 1.
    assert int(found["NSpid"].split()[-1]) > 1
    assert "/work/deep" in text


@pytest.mark.parametrize("no_new_privs", [False, True])
def test_runtime_default_on_the_real_kernel(box: Box, no_new_privs: bool) -> None:
    answers = probe(box, no_new_privs=no_new_privs)
    allowed = {"inet", "unix", "netlink", "unix32", "getpid32", "thread", "fork"}
    assert {name for name, number in answers.items() if number == 0} == allowed
    missing = {"clone3", "newer", "socketcall32"}
    assert {name for name, number in answers.items() if number == errno.ENOSYS} == missing
    refused = {
        "alg",
        "vsock",
        "alg_upper",
        "vsock_upper",
        "alg32",
        "keyctl",
        "io_uring",
        "userfaultfd",
        "bpf",
        "unshare_user",
    }
    assert {name for name, number in answers.items() if number == errno.EPERM} == refused


def test_sys_admin_gets_what_it_is_for_and_no_more(box: Box) -> None:
    answers = probe(box, capabilities=pod.Capabilities(add=("SYS_ADMIN",)))
    assert answers["clone3"] == 0
    assert answers["alg"] == answers["alg_upper"] == answers["keyctl"] == errno.EPERM


GO_PROGRAM = """package main

import (
	"fmt"
	"net"
	"runtime"
	"sync"
)

func main() {
	var wait sync.WaitGroup
	for i := 0; i < 50; i++ {
		wait.Add(1)
		go func() { runtime.LockOSThread(); wait.Done() }()
	}
	wait.Wait()
	runtime.GC()
	_, err := net.Listen("unix", "/tmp/s")
	fmt.Println("go", err)
}
"""


def built_go_program() -> Path:
    """Built once: the Go compiler takes half a minute with an empty cache."""
    target, source = OUT / "go-program", OUT / "go"
    if not target.exists() or target.stat().st_mtime < Path(__file__).stat().st_mtime:
        go = shutil.which("go")
        if go is None:
            pytest.skip("no go (Debian package golang-go)")
        source.mkdir(parents=True, exist_ok=True)
        (source / "go.mod").write_text("module probe\n\ngo 1.19\n")
        (source / "main.go").write_text(GO_PROGRAM)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(source),
            "GOCACHE": str(OUT / "go-cache"),
            "CGO_ENABLED": "0",
            "GOTOOLCHAIN": "local",
        }
        subprocess.run([go, "build", "-o", target, "."], cwd=source, env=environment, check=True)
    return target


def test_a_program_in_go_runs_under_runtime_default(box: Box) -> None:
    """Go's scheduler makes threads by clone, and its runtime uses calls that C programs do not."""
    shutil.copy(built_go_program(), box.lower / "bin/hello")
    assert run(box, compiled("/bin/hello")).out == "go <nil>\n"


def test_nginx_starts_and_stops_under_runtime_default(box: Box) -> None:
    if not Path("/usr/sbin/nginx").exists():
        pytest.skip("no nginx (Debian package nginx-light)")
    (box.host / "nginx.conf").write_text(
        "user root;\nworker_processes 2;\npid /tmp/pid;\nerror_log /tmp/log;\nevents {}\n"
        "http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;\n"
        "uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen unix:/tmp/web; return 200; } }\n"
    )
    directories = [name for name in ("usr", "lib", "lib64", "etc") if Path("/", name).exists()]
    mounts = tuple(pod.Mount(container_path=f"/{name}", host_path=f"/{name}", readonly=True) for name in directories)
    conf = pod.Mount(container_path="/nginx.conf", host_path=str(box.host / "nginx.conf"), readonly=True)
    text = shell(
        box,
        "N='/usr/sbin/nginx -c /nginx.conf -e /tmp/log'; $N; echo started $?; "
        "until [ $(ps | grep -c '[w]orker process') = 2 ]; do usleep 10000; done; "
        "$N -s quit; echo stopped $?; "
        "while [ -e /tmp/pid ]; do usleep 10000; done; cat /tmp/log",
        mounts=(*mounts, conf),
    )
    assert "started 0\nstopped 0" in text
    assert "emerg" not in text and "not permitted" not in text
