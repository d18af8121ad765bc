"""Host ports and masquerade of the built-in network: one nftables table of constant rules, and maps whose elements are the pods.

    table inet <table>
      maps    hostports4, hostports6          protocol . host port -> pod address . port
              hostip_ports4, hostip_ports6    host address . protocol . host port -> pod address . port
      chains  prerouting, output              a local destination -> hostports; postrouting: masquerade; guard: see below

The rules are made once (and again, with the elements, when somebody flushed them); a pod adds and deletes map elements only,
and a pod without host ports does not come here at all. An element's comment is the sandbox id: that is how a restarted daemon
knows whose it is, and why the table may be listed with `nft list table inet <table>`. Pods reach themselves and each other
through a host port too (``hairpin_mark``); the host reaches them through any of its own IPv4 addresses, 127.0.0.1 included, and
through its IPv6 addresses except ::1, from which the kernel routes nothing away.
Owns the table and the question who has which port; never touches links. Test: tests/kernel/network/test_hostports.py.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from orlop.base.errors import FailedPrecondition, Internal, InvalidArgument
from orlop.kernel import conntrack, listeners, nftables
from orlop.kernel.netlink import NetlinkError, Network
from orlop.kernel.nftables import Element, NftError
from orlop.network.attachment import IpAddress as Address
from orlop.network.attachment import PortMapping

_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_PROTOCOL_NAMES: Final = {number: name for name, number in _PROTOCOLS.items()}
_MAPS: Final = {
    "hostports4": "inet_proto . inet_service : ipv4_addr . inet_service",
    "hostports6": "inet_proto . inet_service : ipv6_addr . inet_service",
    "hostip_ports4": "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    "hostip_ports6": "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
}
# Concatenations: each part padded to a register of four bytes.
_PROTOCOL_PORT: Final = struct.Struct("!BxxxHxx")
_PORT: Final = struct.Struct("!Hxx")

HAIRPIN_MARK: Final = 0x2000
"""Packet mark between prerouting and postrouting of one packet; the bit that CNI's portmap plugin uses for the same purpose."""


def rules(*, table: str, bridge: str, subnets: Sequence[Network], mark: int = HAIRPIN_MARK) -> str:
    """Return the whole table but its elements, as one transaction that may be repeated while elements are in use."""
    head = f"inet {table}"
    lines = [f"add table {head}"]
    lines += [f"add map {head} {name} {{ type {kind}; }}" for name, kind in _MAPS.items()]
    hooks = {
        "guard": "filter hook prerouting priority raw",
        "prerouting": "nat hook prerouting priority dstnat",
        "output": "nat hook output priority -100",
        "postrouting": "nat hook postrouting priority srcnat",
    }
    lines += [f"add chain {head} {name} {{ type {hook}; policy accept; }}" for name, hook in hooks.items()]
    lines.append(f"add chain {head} hostports")
    lines += [f"flush chain {head} {name}" for name in (*hooks, "hostports")]

    def rule(chain: str, body: str) -> None:
        lines.append(f"add rule {head} {chain} {body}")

    # route_localnet lets 127.0.0.1:<host port> reach a pod; it must not let a pod reach 127.0.0.1 (CVE-2020-8558).
    rule("guard", f'iifname "{bridge}" ip daddr 127.0.0.0/8 drop')
    rule("prerouting", "fib daddr type local jump hostports")
    # Nothing can be routed away from ::1: without this a connection would hang instead of being refused.
    rule("output", "ip6 daddr ::1 return")
    rule("output", "fib daddr type local jump hostports")
    # The mark has to be set before the translation, which ends the walk; it is taken off again if there was none.
    rule("hostports", f'iifname "{bridge}" meta mark set meta mark or {mark:#x}')
    rule("hostports", "dnat ip to ip daddr . meta l4proto . th dport map @hostip_ports4")
    rule("hostports", "dnat ip to meta l4proto . th dport map @hostports4")
    rule("hostports", "dnat ip6 to ip6 daddr . meta l4proto . th dport map @hostip_ports6")
    rule("hostports", "dnat ip6 to meta l4proto . th dport map @hostports6")
    rule("hostports", f'iifname "{bridge}" meta mark set meta mark and {mark ^ 0xFFFFFFFF:#x}')
    # A pod that came in through a host port and goes out to a pod: the answer must come back this way, not across the bridge.
    # Other translations (a service address) keep the pod's own address: network policies look at it.
    rule("postrouting", f'oifname "{bridge}" meta mark and {mark:#x} == {mark:#x} ct status dnat masquerade')
    rule("postrouting", f'oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade')
    rule("postrouting", "ip daddr 224.0.0.0/4 return")
    rule("postrouting", "ip6 daddr ff00::/8 return")
    for subnet in subnets:
        family = "ip" if subnet.version == 4 else "ip6"
        rule("postrouting", f"{family} saddr {subnet} {family} daddr != {subnet} masquerade")
    return "\n".join(lines) + "\n"


def elements_of(sandbox_id: str, mapping: PortMapping, addresses: Sequence[Address]) -> list[Element]:
    """Return the map elements of one mapping to a pod with these addresses; none for a family that the pod has not."""
    port = _PROTOCOL_PORT.pack(_PROTOCOLS[mapping.protocol], mapping.host_port)
    host = ipaddress.ip_address(mapping.host_ip) if mapping.host_ip else None
    found = []
    for address in addresses:
        if host is not None and host.version != address.version:
            continue
        data = address.packed + _PORT.pack(mapping.container_port)
        if host is None or host.is_unspecified:
            found.append(Element(f"hostports{address.version}", port, data, sandbox_id))
        else:
            found.append(Element(f"hostip_ports{address.version}", host.packed + port, data, sandbox_id))
    return found


def _listening(element: Element) -> tuple[str, int, int, bytes]:
    """Return (family digit, protocol, port, host address or empty = all) of an element."""
    protocol, port = _PROTOCOL_PORT.unpack(element.key[-_PROTOCOL_PORT.size :])
    return element.map[-1], protocol, port, element.key[: -_PROTOCOL_PORT.size]


def _spoken(element: Element) -> str:
    """Return ``tcp 127.0.0.1:8080`` of an element."""
    _, protocol, port, host = _listening(element)
    name = _PROTOCOL_NAMES.get(protocol, str(protocol))
    if not host:
        return f"{name} {port}"
    address = ipaddress.ip_address(host)
    return f"{name} [{address}]:{port}" if address.version == 6 else f"{name} {address}:{port}"


def refuse_listened(sandbox_id: str, elements: Iterable[Element]) -> None:
    """Raise FailedPrecondition for a port on which a process of the host listens: the rules would take its traffic away.

    As docker, and unlike the portmap plugin: a pod that asks for port 22 must not take the way into the machine. SCTP is not looked at.
    """
    for element in elements:
        family, protocol, port, host = _listening(element)
        unspecified = ipaddress.IPv4Address(0) if family == "4" else ipaddress.IPv6Address(0)
        address = ipaddress.ip_address(host) if host else unspecified
        if (found := listeners.listener(protocol, address, port)) is not None:
            raise FailedPrecondition(
                f"sandbox {sandbox_id}: host port {_spoken(element)} is in use by a process of this host, at {found}"
            )


class HostPorts:
    """The table of one network. ``install`` comes first; it also reads back whose elements are there."""

    def __init__(self, *, table: str, bridge: str, subnets: Sequence[Network], mark: int = HAIRPIN_MARK) -> None:
        self._table = table
        self._rules = rules(table=table, bridge=bridge, subnets=subnets, mark=mark)
        self._socket: socket.socket | None = None
        self._elements: dict[str, list[Element]] = {}
        """Sandbox id -> its elements."""
        self._listeners: dict[tuple[str, int, int], dict[bytes, str]] = {}
        """(family, protocol, port) -> host address (empty = all) -> sandbox id."""

    @property
    def owners(self) -> frozenset[str]:
        return frozenset(self._elements)

    def install(self) -> None:
        """Make table, maps and rules if they are not as they should be, and take over the elements that are there."""
        opened = self._open()
        known = [element for elements in self._elements.values() for element in elements]
        self._write_rules()
        present = {
            (element.map, element.key): element
            for name in _MAPS
            for element in nftables.list_elements(opened, self._table, name)
        }
        self._elements.clear()
        self._listeners.clear()
        for element in present.values():
            self._remember(element)
        missing = [element for element in known if (element.map, element.key) not in present]
        nftables.add_elements(opened, self._table, missing)
        for element in missing:
            self._remember(element)

    def _write_rules(self) -> None:
        # Used once a daemon's life: its memory is worth more than the millisecond of making it anew.
        try:
            library = nftables.Library()
            try:
                library.run(self._rules)
            finally:
                library.close()
        except NftError as error:
            raise FailedPrecondition(f"table inet {self._table}: cannot be installed: {error}") from error

    def installed(self) -> bool:
        """Say whether the table is still there: another program may have flushed the whole rule set."""
        return nftables.has_table(self._open(), self._table)

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = nftables.open_nft_socket()
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _remember(self, element: Element) -> None:
        self._elements.setdefault(element.comment, []).append(element)
        family, protocol, port, host = _listening(element)
        self._listeners.setdefault((family, protocol, port), {})[host] = element.comment

    def _forget(self, sandbox_id: str) -> None:
        for element in self._elements.pop(sandbox_id, ()):
            family, protocol, port, host = _listening(element)
            listeners = self._listeners.get((family, protocol, port), {})
            if listeners.get(host) == sandbox_id:
                del listeners[host]
            if not listeners:
                self._listeners.pop((family, protocol, port), None)

    def check_free(self, sandbox_id: str, elements: Iterable[Element]) -> None:
        """Raise FailedPrecondition that names the sandbox which has one of these ports, on the same address or on all."""
        for element in elements:
            family, protocol, port, host = _listening(element)
            for other_host, other in self._listeners.get((family, protocol, port), {}).items():
                if other_host == host or not other_host or not host:
                    whose = "itself" if other == sandbox_id else f"sandbox {other}"
                    raise FailedPrecondition(f"sandbox {sandbox_id}: host port {_spoken(element)} is in use by {whose}")

    def add(self, sandbox_id: str, mappings: Sequence[PortMapping], addresses: Sequence[Address]) -> None:
        """Open the host ports of a pod, all or none; raises FailedPrecondition when one is in use by another pod."""
        if not mappings:
            return
        elements: list[Element] = []
        for mapping in mappings:
            made = elements_of(sandbox_id, mapping, addresses)
            if not made:
                raise InvalidArgument(
                    f"sandbox {sandbox_id}: host port {mapping.protocol} {mapping.host_port}: the pod has no address of "
                    f"the family of host_ip {mapping.host_ip}"
                )
            self.check_free(sandbox_id, made)
            elements += made
        keys = {(element.map, element.key) for element in elements}
        if len(keys) < len(elements):
            raise InvalidArgument(f"sandbox {sandbox_id}: port_mappings: a host port is mapped twice")
        try:
            self._insert(elements)
        except NetlinkError as error:
            if error.errno == errno.EEXIST:
                place = _spoken(elements[error.request])
                raise FailedPrecondition(
                    f"sandbox {sandbox_id}: host port {place} is in use in table {self._table}"
                ) from error
            raise Internal(f"sandbox {sandbox_id}: host ports: {error}") from error
        for element in elements:
            self._remember(element)
        self._forget_flows(elements)

    def _insert(self, elements: Sequence[Element]) -> None:
        try:
            nftables.add_elements(self._open(), self._table, elements)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            # Somebody flushed the rule set (a firewall was reloaded): make it again, with every pod's elements.
            self.install()
            nftables.add_elements(self._open(), self._table, elements)

    def remove(self, sandbox_id: str) -> None:
        """Close the host ports of a pod; a pod without any costs nothing."""
        elements = self._elements.get(sandbox_id)
        if not elements:
            return
        try:
            self._delete(elements)
        except NetlinkError as error:
            raise Internal(f"sandbox {sandbox_id}: host ports cannot be removed: {error}") from error
        self._forget(sandbox_id)
        self._forget_flows(elements)

    def _delete(self, elements: Sequence[Element]) -> None:
        try:
            nftables.delete_elements(self._open(), self._table, elements)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            # One is gone already, and the batch with it: delete the others one by one.
            for element in elements:
                try:
                    nftables.delete_elements(self._open(), self._table, [element])
                except NetlinkError as inner:
                    if inner.errno != errno.ENOENT:
                        raise

    def _forget_flows(self, elements: Iterable[Element]) -> None:
        flows = set()
        for element in elements:
            family, protocol, port, _ = _listening(element)
            if protocol == socket.IPPROTO_UDP:
                flows.add((socket.AF_INET if family == "4" else socket.AF_INET6, port))
        for address_family, port in sorted(flows):
            conntrack.forget_udp_port(self._open(), address_family, port)

    def reconcile(self, live: AbstractSet[str]) -> list[str]:
        """Close the host ports of all sandboxes but these; returns whose were closed."""
        gone = [sandbox_id for sandbox_id in self._elements if sandbox_id not in live]
        for sandbox_id in gone:
            self.remove(sandbox_id)
        return gone

    def uninstall(self) -> None:
        """Delete the table with everything in it."""
        try:
            library = nftables.Library()
            try:
                # "add" first: "delete" of what is not there is an error.
                library.run(f"add table inet {self._table}\ndelete table inet {self._table}\n")
            finally:
                library.close()
        except NftError as error:
            raise FailedPrecondition(f"table inet {self._table}: cannot be deleted: {error}") from error
        self._elements.clear()
        self._listeners.clear()
