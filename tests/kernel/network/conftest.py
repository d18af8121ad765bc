"""Own network namespaces for every test: one that plays the host, one a pod, one that plays the world outside.

Nothing of the real host's network is touched, and nothing can remain of it: a namespace dies with its last fd.
A socket belongs to the namespace in which it was made, so one process can speak for all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orlop.base.ids import SandboxId
from orlop.kernel import netlink
from orlop.network.attachment import AttachRequest, PortMapping
from orlop.network.bridge import BridgeNetwork

EXCHANGE_SECONDS = 20
"""On a busy machine a neighbour may be asked for more than once, a second apart."""

CLONE_NEWNET = 0x40000000
BRIDGE = "orlopt0"
SUBNETS = ("10.86.0.0/16", "fd00:10:86::/64")
GATEWAY, GATEWAY6 = "10.86.0.1", "fd00:10:86::1"
OUTSIDE, OUTSIDE_HOST = "198.51.100.2", "198.51.100.1"
OUTSIDE6, OUTSIDE_HOST6 = "2001:db8:1::2", "2001:db8:1::1"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: int) -> None:
    if getattr(_libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def current_netns() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def entered(netns_fd: int) -> Iterator[None]:
    """Be in another network namespace for a moment; sockets made there stay there."""
    before = current_netns()
    _call("setns", netns_fd, CLONE_NEWNET)
    try:
        yield
    finally:
        _call("setns", before, CLONE_NEWNET)
        os.close(before)


@dataclass
class Netns:
    """A namespace, with a netlink socket opened inside it as the pod's monitor does."""

    fd: int
    netlink: socket.socket
    sandbox_id: SandboxId = field(default_factory=lambda: SandboxId(secrets.token_hex(32)))

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def netns_fd(self) -> int:
        return self.fd

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        with entered(self.fd):
            made = socket.socket(family, kind)
        made.settimeout(EXCHANGE_SECONDS)
        return made

    def listen(self, address: str, port: int) -> socket.socket:
        server = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen()
        return server

    def bound(self, address: str, port: int) -> socket.socket:
        opened = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((address, port))
        return opened

    def request(self, *mappings: PortMapping) -> AttachRequest:
        return AttachRequest(
            sandbox_id=self.sandbox_id,
            netns_fd=self.fd,
            netlink=self.netlink,
            netns_path=self.path,
            port_mappings=mappings,
            pod_name="web",
            pod_namespace="default",
            pod_uid="u-1",
        )

    def close(self) -> None:
        self.netlink.close()
        os.close(self.fd)


def make_netns() -> Netns:
    before = current_netns()
    _call("unshare", CLONE_NEWNET)
    try:
        return Netns(fd=current_netns(), netlink=netlink.open_socket())
    finally:
        _call("setns", before, CLONE_NEWNET)
        os.close(before)


@pytest.fixture
def host() -> Iterator[Netns]:
    """The test runs in a namespace that plays the host."""
    before = current_netns()
    made = make_netns()
    _call("setns", made.fd, CLONE_NEWNET)
    try:
        netlink.transact(made.netlink, [netlink.set_up(netlink.LOOPBACK_INDEX)])
        yield made
    finally:
        _call("setns", before, CLONE_NEWNET)
        os.close(before)
        made.close()


@pytest.fixture
def new_pod(host: Netns) -> Iterator[object]:
    """Makes pods: namespaces with nothing but lo."""
    made: list[Netns] = []

    def make() -> Netns:
        made.append(make_netns())
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def outside(host: Netns) -> Iterator[Netns]:
    """The world: a machine on a link of the host, which has no route to the pods."""
    world = make_netns()
    netlink.transact(host.netlink, [netlink.new_veth("uplink0", peer="eth0", peer_netns_fd=world.fd)])
    near = netlink.link(host.netlink, "uplink0").index
    far = netlink.link(world.netlink, "eth0").index
    netlink.transact(
        host.netlink,
        [
            netlink.add_address(near, ipaddress.ip_interface(f"{OUTSIDE_HOST}/24")),
            netlink.add_address(near, ipaddress.ip_interface(f"{OUTSIDE_HOST6}/64")),
        ],
    )
    netlink.transact(
        world.netlink,
        [
            netlink.set_up(netlink.LOOPBACK_INDEX),
            netlink.set_up(far),
            netlink.add_address(far, ipaddress.ip_interface(f"{OUTSIDE}/24")),
            netlink.add_address(far, ipaddress.ip_interface(f"{OUTSIDE6}/64")),
        ],
    )
    yield world
    world.close()


@pytest.fixture
async def bridge(host: Netns, tmp_path: Path) -> AsyncIterator[BridgeNetwork]:
    network = BridgeNetwork(ipam_directory=tmp_path / "ipam", bridge=BRIDGE, subnets=SUBNETS)
    yield network
    await network.close()


def exchange(client: socket.socket, server: socket.socket, address: str, port: int) -> tuple[str, int]:
    """Connect, send both ways, and return the address that the server saw."""
    server.settimeout(EXCHANGE_SECONDS)
    client.connect((address, port))
    accepted, peer = server.accept()
    accepted.settimeout(EXCHANGE_SECONDS)
    with accepted, client:
        client.sendall(b"ping")
        assert accepted.recv(16) == b"ping"
        accepted.sendall(b"pong")
        assert client.recv(16) == b"pong"
    return peer[0], peer[1]


def exchange_udp(client: socket.socket, server: socket.socket, address: str, port: int) -> str:
    server.settimeout(EXCHANGE_SECONDS)
    client.sendto(b"ping", (address, port))
    data, peer = server.recvfrom(16)
    if data == b"early":  # it waited for the neighbour's address and came after the rules
        data, peer = server.recvfrom(16)
    assert data == b"ping"
    server.sendto(b"pong", peer)
    data, sender = client.recvfrom(16)
    assert data == b"pong"
    # The answer comes from where the question went.
    assert sender[0] == address and sender[1] == port
    return str(peer[0])
