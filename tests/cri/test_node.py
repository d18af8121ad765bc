"""What the daemon does for the node as a whole: the cluster's ranges, the pods' kernel parameters, and its own end."""

from __future__ import annotations

import os

import grpc
import pytest

from orlop.base.errors import InvalidArgument
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.census import links
from tests.cri.client import CALL_SECONDS, Pod, pull, sandbox_config
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri


def update(client, pod_cidr):
    config = cri.RuntimeConfig(network_config=cri.NetworkConfig(pod_cidr=pod_cidr))
    client.runtime.UpdateRuntimeConfig(cri.UpdateRuntimeConfigRequest(runtime_config=config), timeout=CALL_SECONDS)


def network_ready(client):
    conditions = client.runtime.Status(cri.StatusRequest(), timeout=CALL_SECONDS).status.conditions
    return next(each for each in conditions if each.type == "NetworkReady")


def test_ranges_that_the_network_is_not_in_are_said(client, orlopd):
    update(client, "192.0.2.0/24,2001:db8::/64")
    condition = network_ready(client)
    assert condition.status
    assert f"10.{orlopd.subnet}.0.0/16 are not in the ranges" in condition.message
    assert "192.0.2.0/24" in condition.message
    update(client, f"10.{orlopd.subnet}.0.0/16")
    assert network_ready(client).message == ""
    update(client, "")
    with pytest.raises((grpc.RpcError, InvalidArgument), match=r"pod_cidr: '10\.1\.2\.3/8'|pod_cidr: 10\.1\.2\.3/8"):
        update(client, "10.1.2.3/8")
    assert network_ready(client).message == ""


def test_pods_take_no_router_advertisements(pod, container):
    assert os.path.exists("/proc/sys/net/ipv6/conf"), "this test needs a kernel with IPv6"
    answer = pod.exec(container, "cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra")
    assert answer.stdout == b"0\n"


def test_links_of_stopped_pods_are_gone_when_the_daemon_is(client, orlopd):
    pull(client, BUSYBOX)
    pods = [Pod.run(client, sandbox_config()) for _ in range(4)]
    assert len(links(orlopd.bridge)) == 4
    for each in pods[1:]:
        each.stop()
    try:
        assert orlopd.terminate() == 0
        assert len(links(orlopd.bridge)) == 1
    finally:
        orlopd.start()
    for each in pods:
        each.remove()
