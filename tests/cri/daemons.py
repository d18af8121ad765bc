"""The runtimes that tests and benchmarks drive: orlopd, and Debian's containerd as a peer; each with directories of its own.

Owns the process, its configuration and its directories; speaks no CRI (tests/cri/client.py does). Never touches a runtime of the system.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

from orlop.oci.cgroups.driver import DEFAULT_PARENT
from tests.cri.census import CGROUP_ROOT, Scope, processes
from tests.images.conformance import PAUSE

TOP = Path(__file__).resolve().parents[2]
UNIFIED = Path("/sys/fs/cgroup/unified/cgroup.controllers")
START_SECONDS = 30.0
STOP_SECONDS = 30.0


def tmpfs_directory() -> Path:
    """Where a state directory belongs: on tmpfs, as /run is on a real machine."""
    run = subprocess.run(["stat", "-f", "-c", "%T", "/run"], capture_output=True, text=True, check=True)
    return Path("/run") if run.stdout.strip() == "tmpfs" else Path("/dev/shm")


def free_subnet() -> int:
    """The second number of a 10.x.0.0/16 that no address or route of this machine uses."""
    used = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    used += subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    return random.choice([x for x in range(100, 250) if f"10.{x}." not in used])


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Daemon(ABC):
    """A runtime with its own root, state, socket and network. ``with`` starts it; leaving removes all of it."""

    kind = ""

    def __init__(self, name: str, certs_d: Path, *, cni: bool = False, arguments: tuple[str, ...] = ()) -> None:
        self.name = name
        self.certs_d = certs_d
        self.cni = cni
        self.arguments = arguments
        self.environment: dict[str, str] = {}
        tag = f"{random.getrandbits(24):06x}"
        self.bridge = f"orlt{tag}"
        self.subnet = free_subnet()
        self.cgroup_parent = f"/{self.bridge}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"orlop-{name}-", dir="/var/tmp"))
        self.state = Path(tempfile.mkdtemp(prefix=f"orlop-{name}-", dir=tmpfs_directory()))
        self.root = self.directory / "root"
        self.logs = self.directory / "logs"
        self.cni_conf = self.directory / "cni"
        self.socket = self.state / "cri.sock"
        self.log_path = self.directory / "daemon.log"
        self.config_path = self.directory / "config.toml"
        self.process: subprocess.Popen[bytes] | None = None
        for each in (self.root, self.logs, self.cni_conf):
            each.mkdir()
        if cni:
            self.write_cni()

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name}: not running")
        return self.process.pid

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def write_config(self) -> None: ...

    def write_cni(self) -> None:
        """bridge and portmap of Debian's CNI plugins."""
        subnet = f"10.{self.subnet}.0.0/16"
        ranges = [[{"subnet": subnet}]]
        bridge = {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": ranges,
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self.state / "cni-ipam"),
            },
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        conflist = {"cniVersion": "1.0.0", "name": f"orlop-{self.bridge}", "plugins": [bridge, portmap]}
        (self.cni_conf / "10-bridge.conflist").write_text(json.dumps(conflist, indent=2))

    def start(self) -> None:
        self.write_config()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                cwd="/",
                start_new_session=True,
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until Status says that runtime and network are ready."""
        from tests.cri.client import ready

        deadline = time.monotonic() + START_SECONDS
        while not ready(self.address):
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended while it started:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready in {START_SECONDS:.0f} s:\n{self.log_tail()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9: what it has no chance to prepare for."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
            self.process = None

    def terminate(self) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.name} did not end after SIGTERM:\n{self.log_tail()}") from None
        self.process = None
        return code

    def log_tail(self, lines: int = 60) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def scope(self) -> Scope:
        return Scope(
            directories=(self.directory, self.state),
            bridge=self.bridge,
            rule_marks=(self.bridge, f"10.{self.subnet}."),
            cgroup_marks=(self.cgroup_parent,),
        )

    def helpers(self) -> list[int]:
        """Processes that the runtime keeps for its pods: monitors, shims and their pause processes; not the containers' own."""
        found = [int(each.split()[0]) for each in processes([str(self.state)])]
        found = [pid for pid in found if self.process is None or pid != self.process.pid]
        return found + [child for pid in found for child in children(pid) if comm(child) == "pause"]

    def __enter__(self) -> Daemon:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(f"---- {self.name}: {self.log_path}\n{self.log_tail()}", file=sys.stderr)
        self.close()

    def remove_pods(self) -> None:
        """Ask the daemon itself to remove what a test left behind."""
        from tests.cri.client import remove_all_pods

        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(Exception):
                remove_all_pods(self.address)

    def close(self) -> None:
        """End the daemon and what it left: its helpers by pid, mounts below its directories, its bridge and table, its directories."""
        self.remove_pods()
        try:
            self.terminate()
        except RuntimeError as error:
            print(error, file=sys.stderr)
        for each in processes([str(self.state), str(self.root)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(each.split()[0]), signal.SIGKILL)
        for target in sorted(self.scope().take().mounts, reverse=True):
            subprocess.run(["umount", "-l", target], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)
        subprocess.run(["nft", "delete", "table", "inet", f"orlop_{self.bridge}"], capture_output=True, check=False)
        for each in sorted(self.scope().take().cgroups, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(each)
        for each in Path("/var/lib/cni/results").glob(f"orlop-{self.bridge}-*"):
            each.unlink(missing_ok=True)
        # Made for pods without a cgroup parent; one that is in use, by whomever, stays.
        for each in (CGROUP_ROOT, *CGROUP_ROOT.iterdir()):
            with contextlib.suppress(OSError):
                os.rmdir(each / DEFAULT_PARENT.lstrip("/"))
        for each in (self.directory, self.state):
            shutil.rmtree(each, ignore_errors=True)


class Orlopd(Daemon):
    kind = "orlop"

    def __init__(
        self, certs_d: Path, *, cni: bool = False, name: str = "orlop", arguments: tuple[str, ...] = (), nri: str = ""
    ) -> None:
        super().__init__(name, certs_d, cni=cni, arguments=arguments)
        self.nri = nri
        self.environment["PYTHONPATH"] = str(TOP / "src")
        self.more_config = ""

    def write_config(self) -> None:
        self.config_path.write_text(
            f"""[registry]
config_path = "{self.certs_d}"

[cni]
conf_dir = "{self.cni_conf}"

[network]
bridge = "{self.bridge}"
subnets = ["10.{self.subnet}.0.0/16"]

[nri]
{self.nri}
{self.more_config}"""
        )

    def command(self) -> list[str]:
        flags = {"--config": self.config_path, "--root": self.root, "--state": self.state, "--listen": self.address}
        return [
            sys.executable,
            "-m",
            "orlop.daemon",
            *(str(x) for pair in flags.items() for x in pair),
            *self.arguments,
        ]


class Containerd(Daemon):
    """Debian's containerd; ``runtime`` is the OCI runtime below it. Always with CNI."""

    kind = "containerd"

    def __init__(self, certs_d: Path, *, runtime: str = "runc") -> None:
        super().__init__(f"ctrd-{runtime}", certs_d, cni=True)
        self.runtime = runtime
        self.holder: subprocess.Popen[bytes] | None = None

    def write_config(self) -> None:
        self.config_path.write_text(
            f"""version = 2
root = "{self.root}"
state = "{self.state / "run"}"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{self.certs_d}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "default"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.default]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.default.options]
        BinaryName = "/usr/bin/{self.runtime}"
"""
        )

    def command(self) -> list[str]:
        command = ["containerd", "--config", str(self.config_path), *self.arguments]
        if self.runtime == "crun" and UNIFIED.exists() and UNIFIED.read_text().strip():
            return ["nsenter", "-t", str(self.room().pid), "-m", *command]
        return command

    def room(self) -> subprocess.Popen[bytes]:
        """A process whose mount namespace lacks the unified hierarchy.

        Debian's crun refuses a hybrid host whose unified hierarchy has a controller that no v1 hierarchy took (hugetlb). What the
        host mounts is not a benchmark's to change, so only this daemon does not see it. The room outlives kill -9 of the daemon.
        """
        if self.holder is None:
            hide = f"umount {UNIFIED.parent} && echo ready && exec sleep infinity"
            made = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", hide],
                stdout=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            assert made.stdout is not None
            if made.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{self.name}: cannot hide {UNIFIED.parent} in a mount namespace")
            self.holder = made
        return self.holder

    def close(self) -> None:
        super().close()
        if self.holder is not None:
            self.holder.kill()
            self.holder.wait(STOP_SECONDS)
            assert self.holder.stdout is not None
            self.holder.stdout.close()
            self.holder = None
