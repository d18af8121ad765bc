"""Compiler and executor together: runtime specs, as `runc spec` writes them and with what kubelet adds, compiled and run."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orlop.oci.compile import Facts, compile_container, compile_exec, compile_pod
from orlop.specs.runtime import RuntimeSpec, parse
from tests.kernel.executor.harness import Box

pytestmark = pytest.mark.kernel

DEFAULT = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]


def mount(destination: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}


def document(*verbs: str, **process: Any) -> dict[str, Any]:
    safe = ("nosuid", "noexec", "nodev")
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/payload", *verbs],
            "env": ["PATH=/bin"],
            "cwd": "/work/dir",
            "capabilities": {"bounding": DEFAULT, "effective": DEFAULT, "permitted": DEFAULT},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 64, "soft": 32}],
            "noNewPrivileges": True,
            **process,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "compiled",
        "mounts": [
            mount("/proc", "proc", *safe),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            mount("/dev/shm", "tmpfs", *safe, "mode=1777", "size=65536k"),
            mount("/dev/mqueue", "mqueue", *safe),
            mount("/sys", "sysfs", *safe, "ro"),
            mount("/etc/hosts", "bind", "rbind", "rprivate", "rw", source="/etc/hosts"),
            mount("/data", "tmpfs", "tmpcopyup", "mode=700"),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network", "cgroup")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "sysctl": {"net.ipv4.ip_forward": "1"},
        },
    }


def spec(raw: dict[str, Any]) -> RuntimeSpec:
    return parse(json.dumps(raw).encode())


def test_container_of_a_spec(box: Box) -> None:
    (box.lower / "data").mkdir()
    (box.lower / "data/seed").write_text("seed")
    verbs = ("names", "id", "cwd", "fds", "limit", "7", "ls", "/data", "write", "/x", "y", "cat", "/proc/self/status")
    plan = compile_container(
        spec(document(*verbs, "cat", "/proc/sys/net/ipv4/ip_forward")), Facts(container_id="orlop")
    )
    outcome = box.run(plan.ops)
    assert not outcome.has("failed"), outcome.events
    assert outcome.line("names:").split()[1] == "compiled"
    assert outcome.line("cwd:") == "cwd: /work/dir"
    assert outcome.line("fds:") == "fds: 0 1 2"
    assert outcome.line("limit 7:") == "limit 7: 32 64"
    assert outcome.line("/data:") == "/data: seed"
    assert outcome.line("/x:") == "/x: Read-only file system"
    assert outcome.line("NoNewPrivs:").split()[1] == "1"
    assert int(outcome.line("CapEff:").split()[1], 16) == 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10
    assert outcome.out.endswith("\n1\n")


def test_terminal_and_user_of_a_spec(box: Box) -> None:
    user = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o77}
    raw = document("tty", "id", terminal=True, consoleSize={"height": 7, "width": 8}, user=user)
    outcome = box.run(compile_container(spec(raw), Facts(container_id="orlop")).ops)
    assert outcome.line("tty:") == "tty: 111 /dev/pts/0 7x8 ctty=yes"
    assert "uid=1000 euid=1000 gid=1001 egid=1001 groups=5,6 umask=0077" in outcome.line("id:")


def test_exec_in_a_compiled_container_of_a_compiled_pod(box: Box) -> None:
    raw = document("wait")
    raw["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", "cgroup")] + [
        {"type": kind, "path": f"/proc/1/ns/{name}"}
        for kind, name in (("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("network", "net"))
    ]
    del raw["hostname"], raw["linux"]["sysctl"]
    from orlop.oci.compile import INHERITED, OF_POD_INIT

    shared = {"pid": OF_POD_INIT, "ipc": INHERITED, "uts": INHERITED, "network": INHERITED}
    pod = compile_pod(network=True, ipc=True, uts=True, hostname="compiled-pod", shared_pid=True)
    one = spec(raw)
    plan = compile_container(one, Facts(container_id="c", namespaces=shared, gate=False))
    process = spec(document("names", "id", "cat", "/proc/1/comm", "cwd", cwd="/etc")).process
    assert process is not None
    join = compile_exec(process, one, Facts(container_id="c", namespaces=shared))
    outcome = box.run(plan.ops, pod=pod.ops, exec_ops=join.ops)
    assert not outcome.has("exec_failed"), outcome.events
    assert outcome.line("names:").split()[1] == "compiled-pod"
    assert "orlop:pod-init" in outcome.out
    assert outcome.line("cwd:") == "cwd: /etc"


def test_missing_command(box: Box) -> None:
    raw = document(args=["nothere"])
    outcome = box.run(compile_container(spec(raw), Facts(container_id="orlop")).ops)
    assert outcome.failed == ("exec", errno.ENOENT, '"nothere": executable file not found in $PATH')


@pytest.mark.skipif(shutil.which("runc") is None, reason="runc writes the spec")
def test_what_runc_spec_writes(box: Box) -> None:
    subprocess.run(["runc", "spec", "--bundle", box.base], check=True)
    raw = json.loads(Path(box.base / "config.json").read_text())
    raw["process"]["args"] = ["/bin/payload", "id", "names"]
    raw["process"]["terminal"] = False
    outcome = box.run(compile_container(spec(raw), Facts(container_id="orlop", cgroup_v2=False, clamp_limits=True)).ops)
    assert not outcome.has("failed"), outcome.events
    assert outcome.line("names:").split()[1] == "runc"
