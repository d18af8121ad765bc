"""CNI with the real plugins, and with plugins that fail, hang and lie."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil

import msgspec
import pytest

from orlop.base import faults
from orlop.base.errors import DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, Unavailable
from orlop.kernel import netlink
from orlop.network.attachment import Attachment, PortMapping
from orlop.network.bridge import BridgeNetwork
from orlop.network.cni import CniNetwork
from orlop.network.select import NetworkSelector
from tests.kernel.network.conftest import BRIDGE, SUBNETS, exchange

pytestmark = pytest.mark.kernel
PLUGINS = "/usr/lib/cni"


@pytest.fixture
def cni(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "bin").mkdir()
    return CniNetwork(
        conf_dir=tmp_path / "conf",
        bin_dirs=(tmp_path / "bin", PLUGINS),
        intents=tmp_path / "intents",
        results=tmp_path / "results",
        add_seconds=10,
        del_seconds=10,
    )


def conflist(tmp_path, *plugins, name="10-test.conflist", version="1.0.0", **more):
    document = {"cniVersion": version, "name": "testnet", "plugins": list(plugins), **more}
    (tmp_path / "conf" / name).write_text(json.dumps(document))


def fake(tmp_path, name, script):
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\nlog={tmp_path}/log.{name}\n{script}\n")
    path.chmod(0o755)
    return {"type": name}


RESULT = '{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.2/24","gateway":"10.9.9.1"}]}'
GOOD = f"""case $CNI_COMMAND in ADD) tee $log.in >/dev/null; echo '{RESULT}';; esac
echo "$CNI_COMMAND $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >> $log"""


def ran(tmp_path, name):
    path = tmp_path / f"log.{name}"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def left(tmp_path):
    return [
        name
        for directory in ("intents", "results")
        if (tmp_path / directory).exists()
        for name in os.listdir(tmp_path / directory)
    ]


@pytest.mark.skipif(not shutil.which("bridge", path=PLUGINS), reason="containernetworking-plugins is not installed")
async def test_real_plugins(cni, host, new_pod, tmp_path):
    conflist(
        tmp_path,
        {
            "type": "bridge",
            "bridge": "orlopcni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(tmp_path / "hl"),
                "ranges": [[{"subnet": "10.88.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    )
    assert (await cni.status()).ready
    pod = new_pod()
    request = pod.request(PortMapping(container_port=80, host_port=8080))
    got = await cni.attach(request)
    assert msgspec.json.decode(msgspec.json.encode(got), type=Attachment) == got
    assert got.ips == ("10.88.0.2",)
    assert got.kind == "cni" and got.host_interface.startswith("veth") and got.gateways[0] == "10.88.0.1"
    assert got.mac == netlink.link(pod.netlink, "eth0").address.hex(":")
    with pod.listen("0.0.0.0", 80) as server:
        exchange(host.socket(), server, got.ips[0], 80)
        exchange(host.socket(), server, "10.88.0.1", 8080)
    cached = json.loads((tmp_path / "results" / f"testnet-{pod.sandbox_id}-eth0").read_text())
    assert cached["kind"] == "cniCacheV1" and cached["networkName"] == "testnet"
    assert json.loads(base64.b64decode(cached["config"]))["name"] == "testnet"
    await cni.detach(request, got)
    await cni.detach(request, got)
    assert left(tmp_path) == []
    assert [link.name for link in netlink.links(pod.netlink)] == ["lo"]
    assert not [name for name in os.listdir(tmp_path / "hl" / "testnet") if name[0].isdigit() or ":" in name]


@pytest.mark.skipif(not shutil.which("bridge", path=PLUGINS), reason="containernetworking-plugins is not installed")
async def test_check_by_a_real_plugin(cni, host, new_pod, tmp_path):
    # Without portmap: its CHECK (1.1) looks for IPv6 rules in a network that has none.
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "hl"), "ranges": [[{"subnet": "10.88.0.0/24"}]]}
    conflist(tmp_path, {"type": "bridge", "bridge": "orlopcni0", "ipam": ipam})
    pod = new_pod()
    got = await cni.attach(pod.request())
    await cni.check(pod.request(), got)
    netlink.transact(pod.netlink, [netlink.delete_link("eth0")])
    with pytest.raises(Internal, match="plugin bridge CHECK"):
        await cni.check(pod.request(), got)
    await cni.detach(pod.request(), got)
    assert left(tmp_path) == []


async def test_arguments_and_capabilities_in_the_specs_spelling(cni, host, new_pod, tmp_path):
    plugin = fake(tmp_path, "one", GOOD)
    second = fake(tmp_path, "two", GOOD)
    wants = {"portMappings": True, "bandwidth": True, "dns": False, "io.kubernetes.cri.pod-annotations": True}
    conflist(tmp_path, {**plugin, "capabilities": wants, "extra": [1]}, second)
    import dataclasses

    pod = new_pod()
    request = dataclasses.replace(
        pod.request(PortMapping(protocol="udp", container_port=53, host_port=5353, host_ip="127.0.0.1")),
        annotations={"kubernetes.io/ingress-bandwidth": "10M"},
    )
    await cni.attach(request)
    given = json.loads((tmp_path / "log.one.in").read_text())
    assert given["name"] == "testnet" and given["cniVersion"] == "1.0.0" and given["extra"] == [1]
    assert given["runtimeConfig"] == {
        "portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}],
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": (1 << 32) - 1},
        "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
    }
    given = json.loads((tmp_path / "log.two.in").read_text())
    assert "runtimeConfig" not in given and given["prevResult"]["ips"][0]["address"] == "10.9.9.2/24"
    line = (tmp_path / "log.one").read_text()
    assert f"ADD {pod.path} eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;" in line
    with pytest.raises(InvalidArgument, match="K8S_POD_NAME"):
        await cni.attach(dataclasses.replace(request, pod_name="a;K8S_POD_UID=b"))


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ('echo \'{"code":7,"msg":"bad thing","details":"very"}\'; exit 1', Internal, r"bad thing: very \(code 7\)"),
        ('echo \'{"code":11,"msg":"later"}\'; exit 1', Unavailable, r"later \(code 11\)"),
        ("echo oops >&2; exit 3", Internal, "exit status 3, no CNI error given: oops"),
        ("kill -9 $$", Internal, "killed by SIGKILL"),
        ("echo nonsense", Internal, "is not JSON"),
        ("true", Internal, "is not JSON"),
        ("echo '{}'", Internal, "no address for eth0"),
        ('echo \'{"ips":[{"address":"10.0.0.300/8"}]}\'', Internal, "is not an IP address"),
        ('echo \'{"cniVersion":"9.9","ips":[]}\'', Internal, "cniVersion"),
        ("cat /dev/zero", Internal, "printed more than"),
    ],
)
async def test_failing_plugins_are_named_and_undone(script, error, words, cni, host, new_pod, tmp_path):
    good = fake(tmp_path, "good", GOOD)
    bad = fake(tmp_path, "bad", f'echo "$CNI_COMMAND" >> $log; test $CNI_COMMAND = DEL && exit 0\n{script}')
    conflist(tmp_path, good, bad)
    with pytest.raises(error, match=words) as caught:
        await cni.attach(new_pod().request())
    assert "network testnet" in str(caught.value)
    assert ran(tmp_path, "good") == ["ADD", "DEL"] and ran(tmp_path, "bad") == ["ADD", "DEL"]
    assert left(tmp_path) == []


async def test_hanging_plugin_is_killed_with_what_it_started(cni, host, new_pod, tmp_path):
    cni._seconds["ADD"] = 0.3
    conflist(tmp_path, fake(tmp_path, "slow", "test $CNI_COMMAND = DEL && exit 0\necho $$ > $log.pid\nsleep 600"))
    with pytest.raises(DeadlineExceeded, match="ADD: not done after 0.3 s"):
        await cni.attach(new_pod().request())
    pid = int((tmp_path / "log.slow.pid").read_text())
    for _ in range(200):
        if not os.path.exists(f"/proc/{pid}"):
            break
        await asyncio.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    assert left(tmp_path) == []


async def test_failed_del_keeps_the_intent_and_reconcile_tries_again(cni, host, new_pod, tmp_path):
    conflist(tmp_path, fake(tmp_path, "stuck", f"test -e {tmp_path}/free || test $CNI_COMMAND = ADD || exit 1\n{GOOD}"))
    pod = new_pod()
    got = await cni.attach(pod.request())
    with pytest.raises(Internal, match="plugin stuck DEL"):
        await cni.detach(pod.request(), got)
    assert cni.holds(pod.sandbox_id)
    await cni.reconcile(set())
    assert cni.holds(pod.sandbox_id)
    (tmp_path / "free").touch()
    await cni.reconcile({pod.sandbox_id})
    assert cni.holds(pod.sandbox_id)
    # The configuration is gone by now: the intent remembers it.
    (tmp_path / "conf" / "10-test.conflist").unlink()
    await cni.reconcile(set())
    assert left(tmp_path) == [] and ran(tmp_path, "stuck")[-1] == "DEL"


@pytest.mark.parametrize("point", ["network.cni.intent", "network.cni.add", "network.cni.cached"])
async def test_fault_points_of_attach(point, cni, host, new_pod, tmp_path):
    conflist(tmp_path, fake(tmp_path, "good", GOOD))
    faults.arm(f"{point}=fail")
    with pytest.raises(Internal, match=point):
        await cni.attach(new_pod().request())
    assert left(tmp_path) == [] and ran(tmp_path, "good")[-1] == "DEL"


async def test_configurations(cni, host, tmp_path):
    assert not cni.present()
    assert not (await cni.status()).ready
    conflist(tmp_path, fake(tmp_path, "one", GOOD), name="20-b.conflist")
    assert cni.configuration.network().plugins[0].type == "one"
    (tmp_path / "conf" / "10-a.conf").write_text('{"cniVersion":"0.3.1","name":"single","type":"two"}')
    assert cni.configuration.network().name == "single"
    status = await cni.status()
    assert not status.ready and "plugin two: no such program" in status.message
    (tmp_path / "conf" / "05-broken.json").write_text("{")
    status = await cni.status()
    assert not status.ready and "05-broken.json" in status.message
    for text, words in (
        ('{"cniVersion":"0.2.0","name":"x","type":"y"}', "cniVersion"),
        ('{"cniVersion":"1.0.0","name":"../x","type":"y"}', "name"),
        ('{"cniVersion":"1.0.0","name":"x","type":"../y"}', "type"),
        ('{"cniVersion":"1.0.0","name":"x","plugins":[]}', "plugins"),
        ("[]", "JSON object"),
    ):
        (tmp_path / "conf" / "05-broken.json").write_text(text)
        with pytest.raises(InvalidArgument, match=words):
            cni.configuration.network()


async def test_status_verb_of_1_1(cni, host, tmp_path):
    script = 'test $CNI_COMMAND = STATUS && echo \'{"code":50,"msg":"no controller"}\' && exit 1'
    conflist(tmp_path, fake(tmp_path, "one", script), version="1.1.0")
    status = await cni.status()
    assert not status.ready and "no controller (code 50)" in status.message


async def test_selector_detaches_from_the_network_of_the_attachment(cni, host, new_pod, tmp_path):
    selector = NetworkSelector(
        bridge=BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS), cni=cni
    )
    one, two = new_pod(), new_pod()
    first = await selector.attach(one.request())
    assert first.kind == "bridge"
    conflist(tmp_path, fake(tmp_path, "good", GOOD))
    second = await selector.attach(two.request())
    assert second.kind == "cni" and (await selector.status()).ready
    await selector.check(one.request(), first)
    await selector.detach(one.request(), first)
    (tmp_path / "conf" / "10-test.conflist").unlink()
    await selector.detach(two.request(), None)
    await selector.detach(two.request(), None)
    assert ran(tmp_path, "good") == ["ADD", "DEL"] and left(tmp_path) == []
    await selector.reconcile(set())
    assert netlink.links(host.netlink, master=netlink.link(host.netlink, BRIDGE).index) == []
    await selector.close()


async def test_check_without_a_known_result(cni, host, new_pod, tmp_path):
    conflist(tmp_path, fake(tmp_path, "good", GOOD))
    pod = new_pod()
    got = await cni.attach(pod.request())
    with pytest.raises(FailedPrecondition, match="no result"):
        await cni.check(pod.request(), msgspec.structs.replace(got, cni_result=None))
    await cni.detach(pod.request(), got)


RESULT_1_1 = RESULT.replace("1.0.0", "1.1.0")
GC_LOG = f"""case $CNI_COMMAND in GC) tee $log.gc >/dev/null;; ADD) cat >/dev/null; echo '{RESULT_1_1}';; *) cat >/dev/null;; esac
echo "$CNI_COMMAND $CNI_CONTAINERID" >> $log"""


def foreign_entry(tmp_path, container="ab" * 32):
    """What another runtime has in the result cache for the same network."""
    entry = {
        "kind": "cniCacheV1",
        "containerId": container,
        "ifName": "eth0",
        "networkName": "testnet",
        "netns": "/gone",
    }
    (tmp_path / "results" / f"testnet-{container}-eth0").write_text(json.dumps(entry))
    return container


async def test_gc_of_1_1_at_the_start_names_what_is_valid(cni, host, new_pod, tmp_path):
    conflist(tmp_path, fake(tmp_path, "one", GC_LOG), fake(tmp_path, "two", GC_LOG), version="1.1.0")
    kept, gone = new_pod(), new_pod()
    for pod in (kept, gone):
        await cni.attach(pod.request())
    other = foreign_entry(tmp_path)
    await cni.reconcile({kept.sandbox_id})
    valid = [{"containerID": each, "ifname": "eth0"} for each in sorted((kept.sandbox_id, other))]
    for name in ("one", "two"):
        assert ran(tmp_path, name) == ["ADD", "ADD", "DEL", "GC"]
        assert (tmp_path / f"log.{name}").read_text().splitlines()[2] == f"DEL {gone.sandbox_id}"
        given = json.loads((tmp_path / f"log.{name}.gc").read_text())
        assert given["cni.dev/valid-attachments"] == given["cni.dev/attachments"] == valid
        assert (given["name"], given["cniVersion"]) == ("testnet", "1.1.0")
    await cni.detach(kept.request())
    assert left(tmp_path) == [f"testnet-{other}-eth0"]


@pytest.mark.parametrize("fields", [{"version": "1.0.0"}, {"version": "1.1.0", "disableGC": True}])
async def test_no_gc_where_it_is_not_known_or_not_wanted(cni, host, tmp_path, fields):
    conflist(tmp_path, fake(tmp_path, "one", GC_LOG), **fields)
    await cni.reconcile(set())
    assert ran(tmp_path, "one") == []


async def test_a_gc_that_fails_or_hangs_does_not_keep_the_daemon_from_serving(cni, host, tmp_path, caplog):
    cni._seconds["GC"] = 0.3
    conflist(
        tmp_path,
        fake(tmp_path, "bad", 'echo \'{"code":7,"msg":"no"}\'; exit 1'),
        fake(tmp_path, "slow", "exec sleep 600"),
        fake(tmp_path, "one", GC_LOG),
        version="1.1.0",
    )
    await cni.reconcile(set())
    assert "plugin bad GC: no (code 7)" in caplog.text and "GC: not done after 0.3 s" in caplog.text
    assert ran(tmp_path, "one") == ["GC"]


async def test_attachments_of_an_earlier_boot_are_deleted_by_the_cache(cni, host, new_pod, tmp_path):
    """The intents went with the boot, the cache and the plugins' addresses did not; what is another runtime's stays."""
    conflist(tmp_path, fake(tmp_path, "one", GOOD))
    pod = new_pod()
    await cni.attach(pod.request(PortMapping(container_port=80, host_port=8080)))
    shutil.rmtree(tmp_path / "intents")
    conflist(tmp_path, fake(tmp_path, "new", GOOD))  # and the configuration is another by now
    other = foreign_entry(tmp_path)
    await cni.reconcile(set())
    assert ran(tmp_path, "one") == ["ADD", "DEL"] and ran(tmp_path, "new") == []
    added, deleted = (tmp_path / "log.one").read_text().splitlines()
    assert added.split()[2:] == deleted.split()[2:] or added.split()[1:] == deleted.split()[1:], "the same arguments"
    assert left(tmp_path) == [f"testnet-{other}-eth0"]


async def test_sweep_repeats_a_del_that_failed(cni, host, new_pod, tmp_path):
    script = f"test -e {tmp_path}/free || test $CNI_COMMAND = ADD || exit 1\n{GOOD}"
    conflist(tmp_path, fake(tmp_path, "stuck", script))
    pod = new_pod()
    await cni.attach(pod.request())
    with pytest.raises(Internal):
        await cni.detach(pod.request())
    await cni.sweep({pod.sandbox_id})
    await cni.sweep(set())
    assert cni.holds(pod.sandbox_id), "it fails still"
    (tmp_path / "free").touch()
    await cni.sweep({pod.sandbox_id})
    assert cni.holds(pod.sandbox_id), "its removal is not done: the caller repeats it"
    await cni.sweep(set())
    assert left(tmp_path) == []


async def test_a_missing_plugin_is_found_before_the_first_one_runs(cni, host, new_pod, tmp_path):
    conflist(tmp_path, fake(tmp_path, "good", GOOD), {"type": "missing"})
    with pytest.raises(FailedPrecondition, match="plugin missing: no such program"):
        await cni.attach(new_pod().request())
    assert ran(tmp_path, "good") == [] and left(tmp_path) == []
