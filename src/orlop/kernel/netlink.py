"""rtnetlink(7): links, addresses and routes as packed messages, sent in batches over a socket that the caller owns.

Owns the wire format: requests are built by pure functions (no I/O) and sent by ``transact`` (all must succeed) or ``attempt``
(one verdict a request). A batch is one sendmsg and, when nothing fails, one recv: only the last request asks for an
acknowledgement, the kernel reports every failure anyway, and it has worked the whole batch off when sendmsg returns, so nothing
here ever waits on a timer. The network namespace is that of the socket, not that of the caller: a NETLINK_ROUTE socket opened
inside a pod and passed by SCM_RIGHTS configures that pod.
Never decides names or addresses, never enters a namespace. Test: tests/kernel/network/test_netlink.py.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# linux/netlink.h
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_REPLACE: Final = 0x100
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200
NLMSGERR_ATTR_MSG: Final = 1
NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12

# linux/rtnetlink.h, if_link.h, if_addr.h, veth.h
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_GETROUTE: Final = 26
IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_MASTER: Final = 10
IFLA_OPERSTATE: Final = 16
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_STATS64: Final = 23
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_NET_NS_FD: Final = 28
IFLA_EXT_MASK: Final = 29
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_INFO_SLAVE_KIND: Final = 4
IFLA_INFO_SLAVE_DATA: Final = 5
IFLA_BRPORT_STATE: Final = 1
IFLA_BRPORT_MODE: Final = 4
IFLA_BRPORT_ISOLATED: Final = 33
RTEXT_FILTER_SKIP_STATS: Final = 8
VETH_INFO_PEER: Final = 1
IFF_UP: Final = 0x1
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_BROADCAST: Final = 4
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
IFA_F_TENTATIVE: Final = 0x40
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_TABLE: Final = 15
RT_TABLE_MAIN: Final = 254
RTPROT_BOOT: Final = 3
RTPROT_RA: Final = 9
RTN_UNICAST: Final = 1
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253

BR_STATE_FORWARDING: Final = 3

LOOPBACK_INDEX: Final = 1
"""The first device of every network namespace is lo: its index is always 1 (net/core/dev.c, loopback_net_init)."""

# A dump answer holds many messages; the kernel fills what recv offers, up to 32 kB.
_RECEIVE_BYTES: Final = 1 << 16
_BATCH_REQUESTS: Final = 64
_DUMP_ATTEMPTS: Final = 8

_HEADER: Final = struct.Struct("=IHHII")
_IFINFO: Final = struct.Struct("=BxHiII")
_IFADDR: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_U32: Final = struct.Struct("=I")
_COUNTERS: Final = struct.Struct("=8Q")


class Request(NamedTuple):
    """One message without its header; ``what`` names it in errors: ``add link veth0``."""

    what: str
    type: int
    flags: int
    payload: bytes


class NetlinkError(OSError):
    """A request that the kernel refused. ``request`` is its place in the batch."""

    def __init__(self, number: int, what: str, detail: str, request: int = 0) -> None:
        text = os.strerror(number).lower()
        super().__init__(number, f"{what}: {text} ({detail})" if detail else f"{what}: {text}")
        self.detail = detail
        self.request = request

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """struct rtnl_link_stats64, the part that people ask for."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    index: int
    name: str
    flags: int
    kind: str
    alias: str
    address: bytes
    mtu: int
    master: int
    peer: int
    """IFLA_LINK: for a veth the index of the other end, in the other end's namespace."""
    operstate: int
    port_state: int
    """IFLA_BRPORT_STATE of a bridge port, else -1."""
    hairpin: bool
    counters: Counters | None

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAddress:
    index: int
    interface: Interface
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    destination: Network | None
    """None = default."""
    family: int
    gateway: Address | None
    index: int
    table: int
    protocol: int


def open_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Open a netlink socket in the caller's network namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        opened.bind((0, 0))
        prepare_socket(opened)
    except OSError:
        opened.close()
        raise
    return opened


def prepare_socket(opened: socket.socket) -> None:
    """Ask for error texts, and for acknowledgements without a copy of the request. For a socket that came from elsewhere."""
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    opened.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)


def attribute(kind: int, value: bytes) -> bytes:
    """Pack one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + b"\0" * (-len(value) & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def attributes(data: bytes | memoryview, offset: int = 0) -> Iterator[tuple[int, memoryview]]:
    """Walk a run of attributes; stops at the first one that does not fit."""
    view = memoryview(data)
    end = len(view)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(view, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & NLA_TYPE_MASK, view[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _string(value: memoryview) -> str:
    return bytes(value).split(b"\0", 1)[0].decode(errors="replace")


# Requests.


def new_bridge(name: str, *, mtu: int | None = None, address: bytes | None = None) -> Request:
    """Create a bridge that is up. Without STP its ports forward at once: no forward delay."""
    parts = [text(IFLA_IFNAME, name), nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))]
    if mtu is not None:
        parts.append(u32(IFLA_MTU, mtu))
    if address is not None:
        parts.append(attribute(IFLA_ADDRESS, address))
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP) + b"".join(parts)
    return Request(f"add bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload)


def new_veth(
    name: str,
    *,
    peer: str,
    peer_netns_fd: int,
    master: int = 0,
    mtu: int | None = None,
    peer_address: bytes | None = None,
) -> Request:
    """Create a veth pair: one end here, up, as a port of ``master``, and ``peer`` born inside another namespace.

    The peer is born down: IFF_UP in its header is ENOTCONN, because the kernel opens it before the two ends know each other
    (drivers/net/veth.c, veth_newlink and veth_open).
    """
    common = [] if mtu is None else [u32(IFLA_MTU, mtu)]
    up = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP)
    down = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    far = [text(IFLA_IFNAME, peer), u32(IFLA_NET_NS_FD, peer_netns_fd), *common]
    if peer_address is not None:
        far.append(attribute(IFLA_ADDRESS, peer_address))
    data = nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, down, *far))
    parts = [text(IFLA_IFNAME, name), nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), data), *common]
    if master:
        parts.append(u32(IFLA_MASTER, master))
    return Request(f"add link {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, up + b"".join(parts))


def change_port(name: str, *, alias: str | None = None, hairpin: bool | None = None) -> Request:
    """Change a bridge port by its name: its alias and its hairpin mode."""
    parts = [text(IFLA_IFNAME, name)]
    if alias is not None:
        parts.append(attribute(IFLA_IFALIAS, alias.encode()))
    if hairpin is not None:
        data = nested(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, bytes([hairpin])))
        parts.append(nested(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), data))
    # RTM_NEWLINK without NLM_F_CREATE: unlike RTM_SETLINK it takes the slave data, unlike AF_BRIDGE it takes a name.
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(parts)
    return Request(f"set link {name}", RTM_NEWLINK, 0, payload)


def change_alias(index: int, alias: str) -> Request:
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(IFLA_IFALIAS, alias.encode())
    return Request(f"set alias of link {index}", RTM_SETLINK, 0, payload)


def change_address(index: int, address: bytes) -> Request:
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(IFLA_ADDRESS, address)
    return Request(f"set address of link {index}", RTM_SETLINK, 0, payload)


def set_up(index: int) -> Request:
    return Request(f"set link {index} up", RTM_SETLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP))


def set_group(name: str, group: int) -> Request:
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(IFLA_IFNAME, name) + u32(IFLA_GROUP, group)
    return Request(f"set group of link {name}", RTM_SETLINK, 0, payload)


def delete_group(group: int) -> Request:
    """Delete every link of a group in one go: the kernel waits for its grace periods once, not once a link."""
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + u32(IFLA_GROUP, group)
    return Request(f"delete links of group {group}", RTM_DELLINK, 0, payload)


def delete_link(name: str) -> Request:
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
    return Request(f"delete link {name}", RTM_DELLINK, 0, payload)


def delete_link_index(index: int) -> Request:
    return Request(f"delete link {index}", RTM_DELLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0))


def add_address(index: int, interface: Interface, *, replace: bool = False) -> Request:
    """Add an address. IPv6 skips duplicate address detection, which would leave it unusable for a second or two."""
    packed = interface.ip.packed
    four = interface.version == 4
    header = _IFADDR.pack(
        socket.AF_INET if four else socket.AF_INET6, interface.network.prefixlen, 0 if four else IFA_F_NODAD, 0, index
    )
    parts = [attribute(IFA_LOCAL, packed), attribute(IFA_ADDRESS, packed)]
    if four:
        if interface.network.prefixlen < 31:
            parts.append(attribute(IFA_BROADCAST, interface.network.broadcast_address.packed))
    else:
        parts.append(u32(IFA_FLAGS, IFA_F_NODAD))
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request(f"add address {interface} to link {index}", RTM_NEWADDR, flags, header + b"".join(parts))


def delete_address(index: int, interface: Interface) -> Request:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    header = _IFADDR.pack(family, interface.network.prefixlen, 0, 0, index)
    return Request(
        f"delete address {interface} of link {index}",
        RTM_DELADDR,
        0,
        header + attribute(IFA_LOCAL, interface.ip.packed) + attribute(IFA_ADDRESS, interface.ip.packed),
    )


def add_route(index: int, gateway: Address | None, destination: Network | None = None) -> Request:
    """Add a route in the main table; without a destination the default route, without a gateway an on-link one."""
    version = gateway.version if gateway is not None else destination.version if destination is not None else 4
    header = _RTMSG.pack(
        socket.AF_INET if version == 4 else socket.AF_INET6,
        0 if destination is None else destination.prefixlen,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        RT_SCOPE_UNIVERSE if gateway is not None or version == 6 else RT_SCOPE_LINK,
        RTN_UNICAST,
        0,
    )
    parts = [u32(RTA_OIF, index)]
    if destination is not None:
        parts.append(attribute(RTA_DST, destination.network_address.packed))
    if gateway is not None:
        parts.append(attribute(RTA_GATEWAY, gateway.packed))
    name = "default" if destination is None else str(destination)
    via = "" if gateway is None else f" via {gateway}"
    return Request(f"add route {name}{via}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, header + b"".join(parts))


# The socket.


_sequence = 0


def _next_sequence() -> int:
    # One counter for all sockets: an answer can never be taken for another's.
    global _sequence
    _sequence = (_sequence + 1) & 0x7FFFFFFF or 1
    return _sequence


def messages(data: bytes | memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Walk one datagram: (type, flags, sequence, payload)."""
    view = memoryview(data)
    offset = 0
    while offset + 16 <= len(view):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(view, offset)
        if length < 16 or offset + length > len(view):
            raise NetlinkError(errno.EBADMSG, "read netlink message", f"length {length} of {len(view) - offset} bytes")
        yield kind, flags, sequence, view[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def error_of(payload: memoryview, flags: int) -> tuple[int, str]:
    """Return (errno, the kernel's explanation) of an NLMSG_ERROR or NLMSG_DONE; errno 0 is an acknowledgement."""
    (number,) = struct.unpack_from("=i", payload)
    detail = ""
    if flags & NLM_F_ACK_TLVS:
        # The request's header follows, and its payload unless the answer is capped (NETLINK_CAP_ACK does that).
        start = 20
        if not flags & NLM_F_CAPPED:
            (length,) = struct.unpack_from("=I", payload, 4)
            start = 4 + ((length + 3) & ~3)
        for kind, value in attributes(payload, start):
            if kind == NLMSGERR_ATTR_MSG:
                detail = _string(value)
    return -number, detail


def attempt(opened: socket.socket, requests: Sequence[Request]) -> list[NetlinkError | None]:
    """Send requests in order and return a verdict for each. A refused request does not stop those after it."""
    verdicts: list[NetlinkError | None] = [None] * len(requests)
    for start in range(0, len(requests), _BATCH_REQUESTS):
        batch = requests[start : start + _BATCH_REQUESTS]
        places: dict[int, int] = {}
        parts: list[bytes] = []
        last = 0
        for place, request in enumerate(batch, start):
            last = _next_sequence()
            places[last] = place
            # Padding belongs to the message before it; payloads are made of padded attributes.
            flags = NLM_F_REQUEST | request.flags
            if place == start + len(batch) - 1:
                flags |= NLM_F_ACK
            parts.append(_HEADER.pack(len(request.payload) + 16, request.type, flags, last, 0))
            parts.append(request.payload)
        opened.send(b"".join(parts))
        finished = False
        while not finished:
            for kind, flags, sequence, payload in messages(opened.recv(_RECEIVE_BYTES)):
                if kind != NLMSG_ERROR or sequence not in places:
                    continue
                number, detail = error_of(payload, flags)
                place = places[sequence]
                if number:
                    verdicts[place] = NetlinkError(number, requests[place].what, detail, place)
                finished = finished or sequence == last
    return verdicts


def transact(opened: socket.socket, requests: Sequence[Request]) -> None:
    """Send requests in order; raise the first refusal. Those after a refused one may have been done: the caller undoes."""
    for verdict in attempt(opened, requests):
        if verdict is not None:
            raise verdict


def _dump(opened: socket.socket, what: str, kind: int, payload: bytes) -> list[memoryview]:
    """Return all messages of a dump; begins again when the kernel says that it changed meanwhile."""
    for _ in range(_DUMP_ATTEMPTS):
        number, found, interrupted = _dump_once(opened, kind, payload)
        if number:
            raise NetlinkError(number, what, "")
        if not interrupted:
            return found
    raise NetlinkError(errno.EINTR, what, f"changed during each of {_DUMP_ATTEMPTS} dumps")


def _dump_once(opened: socket.socket, kind: int, payload: bytes) -> tuple[int, list[memoryview], bool]:
    asked = _next_sequence()
    opened.send(_HEADER.pack(len(payload) + 16, kind, NLM_F_REQUEST | NLM_F_DUMP, asked, 0) + payload)
    found: list[memoryview] = []
    interrupted = False
    while True:
        for got, flags, sequence, body in messages(opened.recv(_RECEIVE_BYTES)):
            if sequence != asked:
                continue
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if got in (NLMSG_DONE, NLMSG_ERROR):
                return error_of(body, 0)[0], found, interrupted
            found.append(body)


def _counters(data: memoryview, offset: int) -> Counters:
    rx_p, tx_p, rx_b, tx_b, rx_e, tx_e, rx_d, tx_d = _COUNTERS.unpack_from(data, offset)
    return Counters(
        rx_packets=rx_p,
        tx_packets=tx_p,
        rx_bytes=rx_b,
        tx_bytes=tx_b,
        rx_errors=rx_e,
        tx_errors=tx_e,
        rx_dropped=rx_d,
        tx_dropped=tx_d,
    )


def parse_counters(payload: memoryview) -> tuple[int, str, Counters] | None:
    """Read (index, name, counters) of an answer to RTM_GETLINK and nothing else of its forty attributes; None without counters."""
    name = ""
    offset, end = _IFINFO.size, len(payload)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4 or offset + length > end:
            return None
        if kind == IFLA_IFNAME:
            name = _string(payload[offset + 4 : offset + length])
        elif kind == IFLA_STATS64 and length >= 4 + _COUNTERS.size:
            return _IFINFO.unpack_from(payload)[2], name, _counters(payload, offset + 4)
        offset += (length + 3) & ~3
    return None


def parse_link(payload: memoryview) -> Link:
    """Read the answer to RTM_GETLINK."""
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    name = kind = alias = ""
    address = b""
    mtu = master = peer = operstate = 0
    port_state = -1
    hairpin = False
    counters: Counters | None = None
    for attr, value in attributes(payload, 16):
        if attr == IFLA_IFNAME:
            name = _string(value)
        elif attr == IFLA_IFALIAS:
            alias = _string(value)
        elif attr == IFLA_ADDRESS:
            address = bytes(value)
        elif attr == IFLA_MTU:
            (mtu,) = _U32.unpack_from(value)
        elif attr == IFLA_MASTER:
            (master,) = _U32.unpack_from(value)
        elif attr == IFLA_LINK:
            (peer,) = _U32.unpack_from(value)
        elif attr == IFLA_OPERSTATE:
            operstate = value[0]
        elif attr == IFLA_STATS64:
            counters = _counters(value, 0)
        elif attr == IFLA_LINKINFO:
            slave_kind = ""
            for info, inner in attributes(value):
                if info == IFLA_INFO_KIND:
                    kind = _string(inner)
                elif info == IFLA_INFO_SLAVE_KIND:
                    slave_kind = _string(inner)
                elif info == IFLA_INFO_SLAVE_DATA and slave_kind == "bridge":
                    for port, setting in attributes(inner):
                        if port == IFLA_BRPORT_STATE:
                            port_state = setting[0]
                        elif port == IFLA_BRPORT_MODE:
                            hairpin = setting[0] != 0
    return Link(
        index=index,
        name=name,
        flags=flags,
        kind=kind,
        alias=alias,
        address=address,
        mtu=mtu,
        master=master,
        peer=peer,
        operstate=operstate,
        port_state=port_state,
        hairpin=hairpin,
        counters=counters,
    )


def links(opened: socket.socket, *, master: int = 0, counters: bool = False) -> list[Link]:
    """List links, or only the ports of one bridge; counters on demand (they are half of the answer)."""
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    if not counters:
        payload += u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    if master:
        payload += u32(IFLA_MASTER, master)
    found = [parse_link(body) for body in _dump(opened, "list links", RTM_GETLINK, payload)]
    # Kernels before 4.5 ignore the filter.
    return [link for link in found if not master or link.master == master]


def link_counters(opened: socket.socket) -> list[tuple[int, str, Counters]]:
    """Return (index, name, counters) of all links."""
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found = (parse_counters(body) for body in _dump(opened, "list links", RTM_GETLINK, payload))
    return [each for each in found if each is not None]


def link(opened: socket.socket, name: str, *, counters: bool = False) -> Link:
    """Return one link by its name; NetlinkError with ENODEV when there is none."""
    asked = _next_sequence()
    payload = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
    if not counters:
        payload += u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    opened.send(_HEADER.pack(len(payload) + 16, RTM_GETLINK, NLM_F_REQUEST, asked, 0) + payload)
    while True:
        for kind, flags, sequence, body in messages(opened.recv(_RECEIVE_BYTES)):
            if sequence != asked:
                continue
            if kind == NLMSG_ERROR:
                number, detail = error_of(body, flags)
                raise NetlinkError(number, f"get link {name}", detail)
            return parse_link(body)


def addresses(opened: socket.socket, index: int = 0) -> list[LinkAddress]:
    """List addresses of both families, of one link or of all."""
    found: list[LinkAddress] = []
    for body in _dump(opened, "list addresses", RTM_GETADDR, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, index)):
        family, prefix, flags, _, owner = _IFADDR.unpack_from(body)
        values = {kind: bytes(value) for kind, value in attributes(body, 8)}
        packed = values.get(IFA_LOCAL, values.get(IFA_ADDRESS))
        if packed is None or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if IFA_FLAGS in values:
            (flags,) = _U32.unpack(values[IFA_FLAGS])
        found.append(
            LinkAddress(index=owner, interface=ipaddress.ip_interface((packed, prefix)), flags=flags),
        )
    return [item for item in found if not index or item.index == index]


def routes(opened: socket.socket, family: int) -> list[Route]:
    """List the unicast routes of one family that name an output link."""
    found: list[Route] = []
    payload = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    for body in _dump(opened, "list routes", RTM_GETROUTE, payload):
        _, prefix, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
        values = {attr: bytes(value) for attr, value in attributes(body, 12)}
        if kind != RTN_UNICAST or RTA_OIF not in values:
            continue
        if RTA_TABLE in values:
            (table,) = _U32.unpack(values[RTA_TABLE])
        destination: Network | None = None
        if RTA_DST in values:
            destination = ipaddress.ip_network((values[RTA_DST], prefix))
        gateway = ipaddress.ip_address(values[RTA_GATEWAY]) if RTA_GATEWAY in values else None
        found.append(
            Route(
                destination=destination,
                family=family,
                gateway=gateway,
                index=_U32.unpack(values[RTA_OIF])[0],
                table=table,
                protocol=protocol,
            )
        )
    return found
