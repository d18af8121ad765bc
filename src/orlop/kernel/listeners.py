"""Who listens on a port of this network namespace: a bind(2) to ask quickly, /proc/net/{tcp,udp}{,6} to know.

A bind alone also fails because of an outgoing connection whose source port it happens to be; only the table tells that apart, and reading
it costs as much as the host has connections. TCP and UDP. Test: tests/kernel/network/test_listeners.py.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_TABLES: Final = Path("/proc/thread-self/net")
# As the kernel prints them: a listening TCP socket, and a UDP socket that is connected to nobody.
_TCP_LISTEN, _UDP_OPEN = "0A", "07"


def listener(protocol: int, address: Address, port: int) -> str | None:
    """Return ``ADDRESS:PORT`` of a socket that would get what comes in there, None when nobody listens.

    ``address`` unspecified means every address of its family; ``protocol`` is IPPROTO_TCP or IPPROTO_UDP, for others nobody listens.
    """
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) or not _is_taken(protocol, address, port):
        return None
    name, state = ("tcp", _TCP_LISTEN) if protocol == socket.IPPROTO_TCP else ("udp", _UDP_OPEN)
    for table in (name, f"{name}6"):
        try:
            text = (_TABLES / table).read_text()
        except FileNotFoundError:  # no IPv6
            continue
        for found, at in parse_table(text, state):
            if at == port and _overlap(address, found):
                return f"[{found}]:{at}" if found.version == 6 else f"{found}:{at}"
    return None


def _is_taken(protocol: int, address: Address, port: int) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if protocol == socket.IPPROTO_TCP else socket.SOCK_DGRAM
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are ending do not count
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((str(address), port))
    except OSError as error:
        # Every other failure (an address that is not here yet, no IPv6) says nothing about listeners.
        return error.errno == errno.EADDRINUSE
    return False


def parse_table(text: str, state: str) -> list[tuple[Address, int]]:
    """Return (address, port) of the sockets in a state; lines that do not parse are left out."""
    found: list[tuple[Address, int]] = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != state:
            continue
        host, _, port = fields[1].partition(":")
        try:
            words = bytes.fromhex(host)
            # Each 32-bit word is printed in the host's order.
            packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
            found.append((ipaddress.ip_address(packed), int(port, 16)))
        except ValueError:
            continue
    return found


def _overlap(asked: Address, found: Address) -> bool:
    if isinstance(found, ipaddress.IPv6Address) and asked.version == 4:
        # A socket of both families: the bind that failed was IPv4's.
        mapped = found.ipv4_mapped
        return found.is_unspecified if mapped is None else asked.is_unspecified or mapped == asked
    return asked.version == found.version and (asked.is_unspecified or found.is_unspecified or asked == found)
