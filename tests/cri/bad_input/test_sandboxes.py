"""Sandboxes that can't be: fields, sysctls, log directories, ports; and CNI plugins that fail half-way, hang or print rubbish."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OrlopError,
    Unavailable,
)
from orlop.cli.client import Client
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import CALL_SECONDS, Pod, sandbox_config
from tests.cri.daemons import Orlopd
from tests.cri.flow import left_over, state_files

pytestmark = pytest.mark.cri


def ports(*mappings: dict[str, object]) -> dict[str, object]:
    return {
        "port_mappings": [cri.PortMapping(**{"container_port": 80, "host_port": 8080, **each}) for each in mappings]
    }


def linux(**fields: object) -> dict[str, object]:
    return {"linux": cri.LinuxPodSandboxConfig(**fields)}


def namespaces(**fields: object) -> dict[str, object]:
    context = cri.LinuxSandboxSecurityContext(namespace_options=cri.NamespaceOption(**fields))
    return linux(security_context=context)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "sysctl that the kernel does not know": (linux(sysctls={"net.nosuch": "1"}), 'net/nosuch = "1": no such file'),
    "sysctl of the host": (linux(sysctls={"kernel.panic": "1"}), r"sysctls\[kernel.panic\]: is not in a namespace"),
    "value of a sysctl": (linux(sysctls={"net.ipv4.ip_forward": "x"}), 'net/ipv4/ip_forward = "x": invalid argument'),
    "sysctl that climbs": (linux(sysctls={"net.ipv4.../../x": "1"}), r"sysctls: 'net\.ipv4\.\.\./\.\./x' is not"),
    "relative cgroup parent": (linux(cgroup_parent="a/b"), "cgroup_parent 'a/b': is not an absolute path"),
    "slice as cgroup parent": (linux(cgroup_parent="x.slice"), "cgroup_parent 'x.slice': is a systemd slice"),
    "cgroup parent that climbs": (linux(cgroup_parent="/../x"), r"cgroup_parent '/\.\./x'"),
    "pid namespace": (namespaces(pid=cri.TARGET, target_id="0" * 64), "namespace_options.pid TARGET is for containers"),
    "network namespace": (namespaces(network=cri.CONTAINER), "namespace_options.network must be POD or NODE"),
    "resolver": ({"dns_config": cri.DNSConfig(servers=["1.1.1.1\nx"])}, r"dns_config.servers\[0\]: .* is not one word"),
    "long host name": ({"hostname": "x" * 100}, "hostname: is longer than 64 bytes"),
    "host name": ({"hostname": "a b"}, "hostname: 'a b' is not a host name"),
    "port": (ports({"host_port": 99999}), r"port_mappings\[0\].host_port: 99999 is not between 0 and 65535"),
    "protocol": (ports({"protocol": 9}), r"port_mappings\[0\].protocol: 9 is not"),
    "address of a port": (ports({"host_ip": "nope"}), r"port_mappings\[0\].host_ip: 'nope' is not an IP address"),
    "port twice": (ports({}, {"container_port": 81}), "port_mappings: a host port is mapped twice"),
    "relative log directory": ({"log_directory": "a/b"}, "log_directory 'a/b' is not an absolute path"),
    "log directory below a file": (
        {"log_directory": "/etc/passwd/x"},
        "log_directory /etc/passwd/x: cannot be made: Not",
    ),
    "log directory in proc": ({"log_directory": "/proc/nosuch"}, "log_directory /proc/nosuch: cannot be made"),
    "labels": ({"labels": {"k": "v" * 300_000}}, "labels: are larger than 262144 bytes together"),
}


@pytest.mark.usefixtures("nothing_remains")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, client, orlopd):
    fields, words = REFUSED[case]
    config = sandbox_config("bad", **fields)
    if not config.linux.cgroup_parent:
        config.linux.cgroup_parent = orlopd.cgroup_parent
    with pytest.raises(InvalidArgument, match=words) as caught:
        Pod.run(client, config)
    assert type(caught.value) is InvalidArgument
    assert str(caught.value).startswith("sandbox bad: ")
    assert "unexpected" not in str(caught.value)


@pytest.mark.usefixtures("nothing_remains")
def test_unknown_handler_and_ids(client):
    with pytest.raises(InvalidArgument, match="sandbox bad: runtime_handler 'nosuch' is not one of"):
        Pod.run(client, sandbox_config("bad"), "nosuch")
    with pytest.raises(InvalidArgument, match="metadata.name: is empty"):
        config = sandbox_config()
        config.metadata.name = ""
        Pod.run(client, config)
    gone = Pod(client=client, config=sandbox_config(), id="f" * 64)
    with pytest.raises(NotFound, match="sandbox f{64}: not found"):
        gone.status()
    gone.remove()  # what is not there is removed already


@pytest.mark.usefixtures("nothing_remains")
def test_a_port_that_another_pod_has(client, orlopd):
    config = sandbox_config("first", **ports({"host_port": 18080}))
    first = Pod.run(client, config)
    try:
        with pytest.raises(
            FailedPrecondition, match=f"sandbox bad: host port tcp 18080 is in use by sandbox {first.id}"
        ):
            Pod.run(client, sandbox_config("bad", **ports({"host_port": 18080})))
    finally:
        first.remove()


# CNI

PLUGIN = """#!/bin/sh
echo "$CNI_COMMAND" >> {log}
test $CNI_COMMAND = ADD || exit 0
{script}
"""


class WithPlugins(Orlopd):
    """orlopd with Debian's bridge plugin and a second plugin that the test writes."""

    def __init__(self, certs_d: Path) -> None:
        super().__init__(certs_d, name="badcni", cni=True)
        self.plugins = self.directory / "plugins"
        self.plugins.mkdir()
        self.calls = self.directory / "calls"
        path = self.cni_conf / "10-bridge.conflist"
        document = json.loads(path.read_text())
        document["plugins"][1] = {"type": "second"}
        path.write_text(json.dumps(document))
        self.second("exit 0")

    def write_config(self) -> None:
        super().write_config()
        text = self.config_path.read_text()
        dirs = f'conf_dir = "{self.cni_conf}"\nbin_dirs = ["{self.plugins}", "/usr/lib/cni"]'
        self.config_path.write_text(text.replace(f'conf_dir = "{self.cni_conf}"', dirs))

    def second(self, script: str) -> None:
        """Replace the second plugin as a package manager does: whole or not at all."""
        new = self.plugins / ".second.new"
        new.write_text(PLUGIN.format(log=self.calls, script=script))
        new.chmod(0o755)
        new.rename(self.plugins / "second")
        self.calls.unlink(missing_ok=True)

    def addresses(self) -> list[str]:
        """Addresses that host-local has given out."""
        found = self.state / "cni-ipam" / f"orlop-{self.bridge}"
        return [name for name in (os.listdir(found) if found.exists() else ()) if name[0].isdigit()]

    def results(self) -> list[str]:
        directory = Path("/var/lib/cni/results")
        return [name for name in (os.listdir(directory) if directory.exists() else ()) if self.bridge in name]


@pytest.fixture(scope="module")
def plugged(registry) -> Iterator[WithPlugins]:
    with WithPlugins(registry.certs_d) as daemon:
        assert isinstance(daemon, WithPlugins)
        yield daemon


@pytest.fixture
def caller(plugged: WithPlugins) -> Iterator[Client]:
    scope, before, files_before = plugged.scope(), plugged.scope().take(), state_files(plugged)
    with Client(plugged.address) as client:
        yield client
        plugged.second("cat >/dev/null; exit 0")
        assert client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items == []
    assert left_over(plugged, scope, before, files_before) == {}
    assert plugged.addresses() == []
    assert plugged.results() == []
    assert not (plugged.state / "cni").exists() or os.listdir(plugged.state / "cni") == []


def pod_of(daemon: WithPlugins, name: str = "bad") -> cri.PodSandboxConfig:
    config = sandbox_config(name)
    config.linux.cgroup_parent = daemon.cgroup_parent
    return config


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ('echo \'{"code":7,"msg":"no more","details":"of them"}\'; exit 1', Internal, r"no more: of them \(code 7\)"),
        ('echo \'{"code":11,"msg":"later"}\'; exit 1', Unavailable, r"later \(code 11\)"),
        ("echo oops >&2; exit 3", Internal, "exit status 3, no CNI error given: oops"),
        ("kill -9 $$", Internal, "killed by SIGKILL"),
        ("echo rubbish", Internal, "result: is not JSON"),
        ("head -c 200 /dev/urandom", Internal, "result: is not JSON"),
        ("true", Internal, "result: is not JSON"),
        ('echo \'{"ips":[{"address":"10.0.0.300/8"}]}\'', Internal, "is not an IP address"),
        ("cat /dev/zero", Internal, "printed more than"),
    ],
)
def test_a_plugin_that_fails_half_way(script, kind, words, plugged, caller):
    """The first plugin has made a link and taken an address; DEL of both takes everything back."""
    plugged.second(script)
    with pytest.raises(kind, match=words) as caught:
        Pod.run(caller, pod_of(plugged))
    assert type(caught.value) is kind
    said = str(caught.value)
    assert said.startswith("sandbox bad: ") and f"network orlop-{plugged.bridge}: plugin second ADD" in said
    assert plugged.calls.read_text().split() == ["ADD", "DEL"]


def test_a_plugin_that_is_not_there(plugged, caller):
    (plugged.plugins / "second").unlink()
    with pytest.raises(FailedPrecondition, match=f"plugin second: no such program in {plugged.plugins}") as caught:
        Pod.run(caller, pod_of(plugged))
    assert str(caught.value).startswith("sandbox bad: ")
    status = caller.runtime.Status(cri.StatusRequest(), timeout=CALL_SECONDS).status
    condition = next(each for each in status.conditions if each.type == "NetworkReady")
    assert not condition.status and "plugin second: no such program" in condition.message


def test_a_configuration_that_does_not_parse(plugged, caller):
    path = plugged.cni_conf / "10-bridge.conflist"
    good = path.read_text()
    path.write_text(good.replace('"1.0.0"', '"9.9.9"'))
    try:
        with pytest.raises(InvalidArgument, match=f"{path}: cniVersion: 9.9.9 given, supported are"):
            Pod.run(caller, pod_of(plugged))
        path.write_text(good[:-10])
        with pytest.raises(InvalidArgument, match=f"{path}: is not JSON"):
            Pod.run(caller, pod_of(plugged))
    finally:
        path.write_text(good)


def test_a_plugin_that_hangs_keeps_its_caller_no_longer_than_its_deadline(plugged, caller, tmp_path):
    """As with kubelet: the call ends, the work goes on, the retry joins it and has its result."""
    go = tmp_path / "go"
    plugged.second(f"cat > {tmp_path}/given; while ! test -e {go}; do sleep 0.05; done; " + ANSWER.format(tmp=tmp_path))
    config = pod_of(plugged, "slow")
    request = cri.RunPodSandboxRequest(config=config)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            caller.runtime.RunPodSandbox(request, timeout=0.5)
    go.touch()
    pod = Pod.run(caller, config)
    assert plugged.calls.read_text().split() == ["ADD"], "two retries, one ADD"
    listed = caller.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=CALL_SECONDS).items
    assert [each.id for each in listed] == [pod.id]
    pod.remove()


# The second plugin passes on what it was given as the previous result, as chained plugins do.
ANSWER = "python3 -c \"import json; print(json.dumps(json.load(open('{tmp}/given'))['prevResult']))\""


def test_a_daemon_that_is_killed_while_a_plugin_hangs(plugged, caller, tmp_path):
    plugged.second(f"cat >/dev/null; echo $$ > {tmp_path}/pid; exec sleep 600")
    with pytest.raises(DeadlineExceeded):
        caller.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=pod_of(plugged)), timeout=1.0)
    plugged.kill()
    plugged.start()
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 9)  # nobody else's: it is this test's own plugin
    assert "DEL" in plugged.calls.read_text().split()


def test_the_network_works_after_all_that(plugged, caller, tmp_path):
    plugged.second(f"cat > {tmp_path}/given; " + ANSWER.format(tmp=tmp_path))
    pod = Pod.run(caller, pod_of(plugged, "good"))
    assert pod.status().network.ip.startswith(f"10.{plugged.subnet}.")
    assert len(plugged.addresses()) == 1 and len(plugged.results()) == 1
    pod.remove()


def test_a_del_that_fails_is_said_and_repeated(plugged, caller, tmp_path):
    plugged.second(f"cat > {tmp_path}/given; " + ANSWER.format(tmp=tmp_path))
    pod = Pod.run(caller, pod_of(plugged, "stuck"))
    (plugged.plugins / "second").write_text('#!/bin/sh\necho \'{"code":7,"msg":"not now"}\'; exit 1\n')
    with pytest.raises(OrlopError, match=f"sandbox {pod.id}: network .*: plugin second DEL: not now"):
        pod.stop()
    assert plugged.addresses(), "half a DEL must not be taken for a whole one"
    plugged.second("cat >/dev/null; exit 0")
    pod.remove()
