"""The built-in network on the real kernel: addresses, traffic, host ports, hairpin, masquerade, and what remains afterwards."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import subprocess

import msgspec
import pytest

from orlop.base import faults
from orlop.base.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument
from orlop.kernel import netlink, nftables, sysctl
from orlop.network.attachment import Attachment, AttachRequest, PortMapping
from orlop.network.bridge import BridgeNetwork
from tests.kernel.network.conftest import (
    BRIDGE,
    GATEWAY,
    GATEWAY6,
    OUTSIDE,
    OUTSIDE6,
    OUTSIDE_HOST,
    OUTSIDE_HOST6,
    SUBNETS,
    entered,
    exchange,
    exchange_udp,
)

pytestmark = pytest.mark.kernel


def ports_of(host):
    index = netlink.link(host.netlink, BRIDGE).index
    return sorted(link.name for link in netlink.links(host.netlink, master=index))


def elements():
    opened = nftables.open_nft_socket()
    with opened:
        return [
            element
            for name in ("hostports4", "hostports6", "hostip_ports4", "hostip_ports6")
            for element in nftables.list_elements(opened, BRIDGE, name)
        ]


def files(tmp_path):
    return sorted(name for name in os.listdir(tmp_path / "ipam" / BRIDGE) if not name.startswith("last_"))


async def test_ensure_ready_is_idempotent_and_restores_what_was_deleted(host, bridge):
    for _ in range(2):
        bridge.ensure_ready()
    link = netlink.link(host.netlink, BRIDGE)
    assert link.kind == "bridge" and link.up
    there = {str(each.interface) for each in netlink.addresses(host.netlink, link.index)}
    assert {f"{GATEWAY}/16", f"{GATEWAY6}/64"} <= there
    assert sysctl.read("net/ipv4/ip_forward") == "1"
    assert sysctl.read("net/ipv6/conf/all/forwarding") == "1"
    assert sysctl.read(f"net/ipv4/conf/{BRIDGE}/route_localnet") == "1"
    assert sysctl.read(f"net/ipv6/conf/{BRIDGE}/accept_ra") == "0"
    netlink.transact(host.netlink, [netlink.delete_link(BRIDGE)])
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert (await bridge.status()).ready
    assert netlink.link(host.netlink, BRIDGE).kind == "bridge"
    assert BRIDGE in subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout


async def test_attachment_says_what_the_pod_has(host, bridge, new_pod):
    pod = new_pod()
    got = await bridge.attach(pod.request())
    assert msgspec.json.decode(msgspec.json.encode(got), type=Attachment) == got
    assert got.ips == ("10.86.0.2", "fd00:10:86::2")
    assert got.gateways == (GATEWAY, GATEWAY6)
    eth0 = netlink.link(pod.netlink, "eth0")
    assert eth0.up and eth0.address.hex(":") == got.mac
    addresses = netlink.addresses(pod.netlink, eth0.index)
    assert set(got.addresses) <= {str(each.interface) for each in addresses}
    # No address waits for duplicate address detection, the link's own apart.
    assert not [a for a in addresses if a.flags & netlink.IFA_F_TENTATIVE and not a.interface.ip.is_link_local]
    assert netlink.link(pod.netlink, "lo").up
    for family, gateway in ((socket.AF_INET, GATEWAY), (socket.AF_INET6, GATEWAY6)):
        default = [r for r in netlink.routes(pod.netlink, family) if r.destination is None and r.table == 254]
        assert [str(each.gateway) for each in default] == [gateway]
    port = netlink.link(host.netlink, got.host_interface)
    assert port.alias == pod.sandbox_id and port.hairpin
    assert port.port_state == netlink.BR_STATE_FORWARDING
    await bridge.check(pod.request(), got)


async def test_pods_reach_each_other_at_once(bridge, new_pod):
    one, two = new_pod(), new_pod()
    first = await bridge.attach(one.request())
    second = await bridge.attach(two.request())
    for place in (0, 1):
        server = two.listen(second.ips[place], 80)
        client = one.socket(server.family)
        with server:
            assert exchange(client, server, second.ips[place], 80)[0] == first.ips[place]


async def test_pod_and_host_reach_each_other(host, bridge, new_pod):
    pod = new_pod()
    got = await bridge.attach(pod.request())
    with pod.listen(got.ips[0], 80) as server:
        assert exchange(host.socket(), server, got.ips[0], 80)[0] == GATEWAY
    with host.listen(GATEWAY6, 81) as server:
        assert exchange(pod.socket(socket.AF_INET6), server, GATEWAY6, 81)[0] == got.ips[1]


async def test_masquerade_towards_the_outside(bridge, new_pod, outside):
    pod = new_pod()
    await bridge.attach(pod.request())
    with outside.listen(OUTSIDE, 80) as server:
        assert exchange(pod.socket(), server, OUTSIDE, 80)[0] == OUTSIDE_HOST
    with outside.listen(OUTSIDE6, 80) as server:
        assert exchange(pod.socket(socket.AF_INET6), server, OUTSIDE6, 80)[0] == OUTSIDE_HOST6
    with outside.bound(OUTSIDE, 53) as server, pod.socket(kind=socket.SOCK_DGRAM) as client:
        assert exchange_udp(client, server, OUTSIDE, 53) == OUTSIDE_HOST


async def test_host_ports_from_outside_from_the_host_and_from_pods(host, bridge, new_pod, outside):
    pod, other = new_pod(), new_pod()
    got = await bridge.attach(
        pod.request(
            PortMapping(protocol="tcp", container_port=80, host_port=8080),
            PortMapping(protocol="udp", container_port=53, host_port=5353),
        )
    )
    second = await bridge.attach(other.request())
    with pod.listen("0.0.0.0", 80) as server:
        # From outside the pod sees who it is.
        assert exchange(outside.socket(), server, OUTSIDE_HOST, 8080)[0] == OUTSIDE
        for address in (OUTSIDE_HOST, GATEWAY, "127.0.0.1", "127.0.0.9"):
            exchange(host.socket(), server, address, 8080)
        # Another pod, and the pod itself, through an address of the host.
        for address in (OUTSIDE_HOST, GATEWAY):
            assert exchange(other.socket(), server, address, 8080)[0] == GATEWAY
            assert exchange(pod.socket(), server, address, 8080)[0] == GATEWAY
        # Straight to the pod nothing is translated.
        assert exchange(other.socket(), server, got.ips[0], 80)[0] == second.ips[0]
    with pod.listen("::", 80) as server:
        assert exchange(outside.socket(socket.AF_INET6), server, OUTSIDE_HOST6, 8080)[0] == OUTSIDE6
        exchange(host.socket(socket.AF_INET6), server, OUTSIDE_HOST6, 8080)
        assert exchange(pod.socket(socket.AF_INET6), server, GATEWAY6, 8080)[0] == GATEWAY6
        assert exchange(other.socket(socket.AF_INET6), server, GATEWAY6, 8080)[0] == GATEWAY6
        with host.socket(socket.AF_INET6) as client:
            assert client.connect_ex(("::1", 8080)) == errno.ECONNREFUSED
    with pod.bound("0.0.0.0", 53) as server:
        for client, address in (
            (outside, OUTSIDE_HOST),
            (host, "127.0.0.1"),
            (host, GATEWAY),
            (pod, GATEWAY),
            (other, GATEWAY),
        ):
            with client.socket(kind=socket.SOCK_DGRAM) as opened:
                exchange_udp(opened, server, address, 5353)
    with pod.bound("::", 53) as server, outside.socket(socket.AF_INET6, socket.SOCK_DGRAM) as opened:
        exchange_udp(opened, server, OUTSIDE_HOST6, 5353)


async def test_hairpin_without_bridge_netfilter(host, bridge, new_pod):
    for name in ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"):
        if sysctl.exists(name):
            sysctl.write(name, "0")
    pod, other = new_pod(), new_pod()
    await bridge.attach(pod.request(PortMapping(container_port=80, host_port=8080)))
    await bridge.attach(other.request())
    with pod.listen("0.0.0.0", 80) as server:
        assert exchange(pod.socket(), server, GATEWAY, 8080)[0] == GATEWAY
        assert exchange(other.socket(), server, GATEWAY, 8080)[0] == GATEWAY
        exchange(host.socket(), server, "127.0.0.1", 8080)


async def test_host_ip_binds_one_address(host, bridge, new_pod, outside):
    pod = new_pod()
    await bridge.attach(
        pod.request(
            PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"),
            PortMapping(container_port=80, host_port=8081, host_ip=OUTSIDE_HOST),
            PortMapping(container_port=80, host_port=8082, host_ip="0.0.0.0"),
            PortMapping(container_port=80, host_port=8083, host_ip=OUTSIDE_HOST6),
        )
    )
    with pod.listen("::", 80) as server:
        exchange(host.socket(), server, "127.0.0.1", 8080)
        exchange(outside.socket(), server, OUTSIDE_HOST, 8081)
        exchange(outside.socket(), server, OUTSIDE_HOST, 8082)
        exchange(outside.socket(socket.AF_INET6), server, OUTSIDE_HOST6, 8083)
        for client, address, port in (
            (outside.socket(), OUTSIDE_HOST, 8080),
            (host.socket(), "127.0.0.1", 8081),
            (outside.socket(), OUTSIDE_HOST, 8083),
            (outside.socket(socket.AF_INET6), OUTSIDE_HOST6, 8082),
        ):
            with client:
                assert client.connect_ex((address, port)) == errno.ECONNREFUSED, (address, port)


async def test_pod_cannot_reach_the_hosts_loopback(host, bridge, new_pod):
    pod = new_pod()
    got = await bridge.attach(pod.request())
    with entered(pod.fd):
        sysctl.write("net/ipv4/conf/all/route_localnet", "1")
    index = netlink.link(pod.netlink, "eth0").index
    # The attack of CVE-2020-8558: 127.0.0.2 by way of the gateway.
    netlink.transact(
        pod.netlink,
        [netlink.add_route(index, ipaddress.ip_address(GATEWAY), ipaddress.ip_network("127.0.0.2/32"))],
    )
    with host.bound("127.0.0.2", 4000) as server, pod.bound(got.ips[0], 0) as client:
        server.settimeout(0.3)
        client.sendto(b"x", ("127.0.0.2", 4000))
        with pytest.raises(TimeoutError):
            server.recvfrom(16)


async def test_port_conflicts_name_the_other_pod(bridge, new_pod, host, tmp_path):
    one, two = new_pod(), new_pod()
    await bridge.attach(one.request(PortMapping(container_port=80, host_port=8080)))
    for mapping in (
        PortMapping(container_port=80, host_port=8080),
        PortMapping(container_port=81, host_port=8080, host_ip="127.0.0.1"),
        PortMapping(container_port=81, host_port=8080, host_ip="::1"),
    ):
        with pytest.raises(FailedPrecondition, match=f"host port tcp .*8080 is in use by sandbox {one.sandbox_id}"):
            await bridge.attach(two.request(mapping))
    await bridge.settle()
    assert len(ports_of(host)) == 1 and len(files(tmp_path)) == 2
    # Another protocol, and another address of the host, are free.
    await bridge.attach(two.request(PortMapping(protocol="udp", container_port=80, host_port=8080)))
    with pytest.raises(AlreadyExists):
        await bridge.attach(two.request())
    third = new_pod()
    with pytest.raises(InvalidArgument, match="mapped twice"):
        await bridge.attach(
            third.request(
                PortMapping(container_port=80, host_port=9000), PortMapping(container_port=81, host_port=9000)
            )
        )
    # Two specific addresses share a port.
    await bridge.attach(third.request(PortMapping(container_port=80, host_port=9000, host_ip="127.0.0.1")))
    fourth = new_pod()
    await bridge.attach(fourth.request(PortMapping(container_port=80, host_port=9000, host_ip="127.0.0.2")))


async def test_detach_leaves_nothing_and_may_be_repeated(bridge, new_pod, host, tmp_path):
    pods = [new_pod() for _ in range(5)]
    made = []
    for place, pod in enumerate(pods):
        made.append(await bridge.attach(pod.request(PortMapping(container_port=80, host_port=8000 + place))))
    assert len(ports_of(host)) == 5 and len(elements()) == 10
    for pod, got in zip(pods, made, strict=True):
        await bridge.detach(pod.request(), got)
        await bridge.detach(pod.request(), None)
    # Host ports are free at once, links and addresses when the kernel is done.
    assert elements() == []
    await bridge.settle()
    assert ports_of(host) == [] and files(tmp_path) == []
    for pod in pods:
        assert [link.name for link in netlink.links(pod.netlink)] == ["lo"]
        await bridge.detach(pod.request(), None)


async def test_address_is_not_reused_before_the_link_is_gone(host, new_pod, tmp_path):
    small = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=("10.86.5.0/30",))
    one, two = new_pod(), new_pod()
    got = await small.attach(one.request())
    assert got.ips == ("10.86.5.2",)
    await small.detach(one.request(), got)
    # The only address of this subnet still has a link.
    with pytest.raises(Exception, match="all 1 addresses of 10.86.5.0/30 are in use"):
        await small.attach(two.request())
    await small.settle()
    assert (await small.attach(two.request())).ips == ("10.86.5.2",)
    await small.close()


async def test_restart_takes_over_and_reconcile_removes_what_has_no_pod(host, bridge, new_pod, tmp_path):
    live, dead = new_pod(), new_pod()
    kept = await bridge.attach(live.request(PortMapping(container_port=80, host_port=8080)))
    await bridge.attach(dead.request(PortMapping(container_port=80, host_port=8081)))
    # A second daemon process starts; the first was killed (its object is simply not used any more).
    again = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS)
    again.ensure_ready()
    # Half-made things: a link without address file, an address file that was being written, an address without link.
    stray = new_pod()
    index = netlink.link(host.netlink, BRIDGE).index
    netlink.transact(
        host.netlink, [netlink.new_veth("orlopdeadbeef01", peer="eth0", peer_netns_fd=stray.fd, master=index)]
    )
    (tmp_path / "ipam" / BRIDGE / "10.86.0.77").touch()
    (tmp_path / "ipam" / BRIDGE / "10.86.0.78").write_text("f" * 64 + "\r\neth0")
    await again.close()
    again = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS)
    await again.reconcile({live.sandbox_id})
    assert ports_of(host) == [kept.host_interface]
    assert files(tmp_path) == sorted(kept.ips)
    assert {each.comment for each in elements()} == {live.sandbox_id}
    await again.check(live.request(), kept)
    with live.listen("0.0.0.0", 80) as server:
        exchange(host.socket(), server, "127.0.0.1", 8080)
    with pytest.raises(FailedPrecondition, match=live.sandbox_id):
        await again.attach(new_pod().request(PortMapping(container_port=80, host_port=8080)))
    third = new_pod()
    got = await again.attach(third.request())
    assert got.ips[0] not in kept.ips
    await again.detach(live.request(), None)
    await again.detach(third.request(), got)
    await again.close()
    assert ports_of(host) == [] and files(tmp_path) == [] and elements() == []


@pytest.mark.parametrize(
    "point", ["network.attach.address", "network.attach.link", "network.attach.pod", "network.attach.hostports"]
)
async def test_failed_attach_takes_back_what_it_made(point, bridge, new_pod, host, tmp_path):
    pod = new_pod()
    faults.arm(f"{point}=fail")
    with pytest.raises(Internal, match=point):
        await bridge.attach(pod.request(PortMapping(container_port=80, host_port=8080)))
    await bridge.detach(pod.request(), None)
    await bridge.settle()
    assert ports_of(host) == [] and files(tmp_path) == [] and elements() == []
    # The same pod can be attached now.
    await bridge.attach(pod.request(PortMapping(container_port=80, host_port=8080)))


async def test_failed_unlink_is_tried_again(bridge, new_pod, host, tmp_path):
    pod = new_pod()
    got = await bridge.attach(pod.request())
    faults.arm("network.detach.link=fail")
    await bridge.detach(pod.request(), got)
    with pytest.raises(Internal, match=r"network\.detach\.link"):
        await bridge.settle()
    assert files(tmp_path) == sorted(got.ips)
    assert (await bridge.status()).ready
    await bridge.settle()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "point",
    [
        "network.attach.address",
        "network.attach.link",
        "network.attach.pod",
        "network.attach.hostports",
        "network.detach.hostports",
        "network.detach.link",
    ],
)
async def test_killed_at_every_step_nothing_remains_after_reconcile(point, bridge, new_pod, host, tmp_path):
    bridge.ensure_ready()
    pod = new_pod()
    child = os.fork()
    if child == 0:
        import asyncio

        faults.arm(f"{point}=kill")
        # The parent's loop is marked as running in this thread, and it is not ours.
        asyncio.events._set_running_loop(None)

        async def doomed() -> None:
            network = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS)
            got = await network.attach(pod.request(PortMapping(container_port=80, host_port=8080)))
            await network.detach(pod.request(), got)
            await network.settle()

        try:
            asyncio.run(doomed())
        finally:
            os._exit(3)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9
    again = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS)
    await again.reconcile(set())
    await again.close()
    assert ports_of(host) == [] and files(tmp_path) == [] and elements() == []


async def test_bridge_deleted_under_us_comes_back_with_the_next_pod(bridge, new_pod, host):
    bridge.ensure_ready()
    netlink.transact(host.netlink, [netlink.delete_link(BRIDGE)])
    pod = new_pod()
    got = await bridge.attach(pod.request())
    with pod.listen(got.ips[0], 80) as server:
        exchange(host.socket(), server, got.ips[0], 80)


async def test_flushed_rules_come_back_with_every_pods_ports(bridge, new_pod, host):
    one, two = new_pod(), new_pod()
    await bridge.attach(one.request(PortMapping(container_port=80, host_port=8080)))
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    await bridge.attach(two.request(PortMapping(container_port=80, host_port=8081)))
    for pod, port in ((one, 8080), (two, 8081)):
        with pod.listen("0.0.0.0", 80) as server:
            exchange(host.socket(), server, "127.0.0.1", port)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    await bridge.detach(one.request(), None)
    assert (await bridge.status()).ready
    assert {each.comment for each in elements()} == {two.sandbox_id}


async def test_udp_client_that_keeps_talking_meets_the_next_pod(bridge, new_pod, host, outside):
    mapping = PortMapping(protocol="udp", container_port=53, host_port=5353)
    client = outside.bound(OUTSIDE, 40000)
    one, two = new_pod(), new_pod()
    # The flow begins before any pod has the port.
    client.sendto(b"early", (OUTSIDE_HOST, 5353))
    await bridge.attach(one.request(mapping))
    with one.bound("0.0.0.0", 53) as server:
        exchange_udp(client, server, OUTSIDE_HOST, 5353)
    await bridge.detach(one.request(), None)
    await bridge.attach(two.request(mapping))
    with two.bound("0.0.0.0", 53) as server:
        exchange_udp(client, server, OUTSIDE_HOST, 5353)
    client.close()


async def test_pod_without_ipv6_gets_ipv4(bridge, new_pod):
    pod = new_pod()
    with entered(pod.fd):
        sysctl.write("net/ipv6/conf/default/disable_ipv6", "1")
    got = await bridge.attach(pod.request(PortMapping(container_port=80, host_port=8080)))
    assert got.ips == ("10.86.0.2",) and got.gateways == (GATEWAY,)
    assert {each.map for each in elements()} == {"hostports4"}
    other = new_pod()
    with entered(other.fd):
        sysctl.write("net/ipv6/conf/default/disable_ipv6", "1")
    with pytest.raises(InvalidArgument, match="no address of the family"):
        await bridge.attach(other.request(PortMapping(container_port=80, host_port=9000, host_ip="::1")))


async def test_host_without_ipv6_says_so(host, new_pod, tmp_path):
    sysctl.write("net/ipv6/conf/default/disable_ipv6", "1")
    network = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS)
    status = await network.status()
    assert status.ready and "ipv6 is disabled on this host" in status.message
    assert (await network.attach(new_pod().request())).ips == ("10.86.0.2",)
    await network.close()
    six = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS[1:])
    with pytest.raises(FailedPrecondition, match="ipv6 only"):
        six.ensure_ready()
    assert not (await six.status()).ready
    await six.close()


async def test_names_and_subnets_that_are_taken(host, outside, tmp_path):
    network = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=("198.51.100.0/24",))
    with pytest.raises(FailedPrecondition, match=r"link uplink0 has route 198\.51\.100\.0/24"):
        network.ensure_ready()
    await network.close()
    other = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge="uplink0", subnets=("10.86.0.0/16",))
    status = await other.status()
    assert not status.ready and "is of kind veth, not a bridge" in status.message
    await other.close()


async def test_two_networks_side_by_side(host, bridge, new_pod, tmp_path):
    second = BridgeNetwork(ipam_directory=tmp_path / "second", bridge="orlopt1", subnets=("10.87.0.0/16",))
    one, two = new_pod(), new_pod()
    await bridge.attach(one.request(PortMapping(container_port=80, host_port=8080)))
    got = await second.attach(two.request(PortMapping(container_port=80, host_port=8081)))
    await second.reconcile({two.sandbox_id})
    await bridge.reconcile({one.sandbox_id})
    for pod, port in ((one, 8080), (two, 8081)):
        with pod.listen("0.0.0.0", 80) as server:
            exchange(host.socket(), server, "127.0.0.1", port)
    # From network to network: the sender is hidden behind the host, as towards anybody else.
    with two.listen(got.ips[0], 80) as server:
        assert exchange(one.socket(), server, got.ips[0], 80)[0] == "10.87.0.1"
    await second.uninstall()
    assert [link.name for link in netlink.links(host.netlink) if link.name.startswith("orlopt")] == [BRIDGE]
    await bridge.uninstall()
    left = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    assert left.strip() == ""
    assert [link.name for link in netlink.links(host.netlink) if link.kind in ("bridge", "veth")] == []


async def test_check_names_what_is_missing(host, bridge, new_pod):
    pod = new_pod()
    got = await bridge.attach(pod.request())
    index = netlink.link(pod.netlink, "eth0").index
    netlink.transact(pod.netlink, [netlink.delete_address(index, ipaddress.ip_interface(got.addresses[0]))])
    with pytest.raises(FailedPrecondition, match=rf"address {got.addresses[0]} is not on eth0 any more"):
        await bridge.check(pod.request(), got)
    netlink.transact(host.netlink, [netlink.delete_link(got.host_interface)])
    with pytest.raises(FailedPrecondition, match="no such device"):
        await bridge.check(pod.request(), got)


async def test_attach_without_a_namespace(bridge, new_pod):
    with pytest.raises(InvalidArgument, match="no network namespace"):
        await bridge.attach(AttachRequest(sandbox_id=new_pod().sandbox_id))


async def test_sctp_ports_are_mapped(bridge, new_pod):
    # This kernel may have no SCTP sockets; the rule does not need any.
    await bridge.attach(new_pod().request(PortMapping(protocol="sctp", container_port=80, host_port=8080)))
    listed = subprocess.run(
        ["nft", "list", "map", "inet", BRIDGE, "hostports4"], check=True, capture_output=True, text=True
    ).stdout
    assert "sctp . 8080 comment" in listed and "10.86.0.2 . 80" in listed
