"""Traffic counters of a pod, read without entering its namespace.

Two ways: through the netlink socket that was opened inside the pod (all its interfaces), or from the host's side of the veth
pairs (one dump for all pods; what the host received the pod sent, so rx and tx change places).
Never sums or rates. Test: tests/kernel/network/test_stats.py.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from orlop.base import limits
from orlop.kernel import netlink
from orlop.network.attachment import INTERFACE
from orlop.specs.pod import InterfaceStats


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceCounters:
    """Counters of one interface as the pod sees them."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def read_counters(pod: socket.socket) -> tuple[InterfaceCounters, ...]:
    """Read the interfaces of the namespace in which the socket was opened, but not lo; the default one comes first.

    No more than METRIC_INTERFACES are told of.
    """
    found = [
        _counters(name, counters)
        for index, name, counters in netlink.link_counters(pod)
        if index != netlink.LOOPBACK_INDEX
    ]
    found.sort(key=lambda each: (each.name != INTERFACE, each.name))
    return tuple(found[: limits.METRIC_INTERFACES])


def read_bridge_counters(host: socket.socket, bridge: str) -> dict[str, InterfaceCounters]:
    """Read the counters of every pod on the built-in bridge in one dump: sandbox id -> its eth0."""
    index = netlink.link(host, bridge).index
    found = {}
    for link in netlink.links(host, master=index, counters=True):
        if link.alias and link.counters is not None:
            found[link.alias] = _counters(INTERFACE, _swapped(link.counters))
    return found


def read_host_side(host: socket.socket, host_interface: str) -> InterfaceCounters:
    """Read one pod's counters from the host's end of its veth pair; NetlinkError with ENODEV when it is gone."""
    link = netlink.link(host, host_interface, counters=True)
    if link.counters is None:
        raise netlink.NetlinkError(95, f"get counters of link {host_interface}", "the kernel sent none")
    return _counters(INTERFACE, _swapped(link.counters))


def interface_stats(pod: socket.socket) -> tuple[InterfaceStats, ...]:
    """Read the interfaces of a pod as CRI's PodSandboxStats wants them."""
    return tuple(
        InterfaceStats(
            name=each.name,
            rx_bytes=each.rx_bytes,
            rx_errors=each.rx_errors,
            tx_bytes=each.tx_bytes,
            tx_errors=each.tx_errors,
        )
        for each in read_counters(pod)
    )


def _swapped(counters: netlink.Counters) -> netlink.Counters:
    return netlink.Counters(
        rx_packets=counters.tx_packets,
        tx_packets=counters.rx_packets,
        rx_bytes=counters.tx_bytes,
        tx_bytes=counters.rx_bytes,
        rx_errors=counters.tx_errors,
        tx_errors=counters.rx_errors,
        rx_dropped=counters.tx_dropped,
        tx_dropped=counters.rx_dropped,
    )


def _counters(name: str, counters: netlink.Counters) -> InterfaceCounters:
    return InterfaceCounters(
        name=name,
        rx_bytes=counters.rx_bytes,
        rx_packets=counters.rx_packets,
        rx_errors=counters.rx_errors,
        rx_dropped=counters.rx_dropped,
        tx_bytes=counters.tx_bytes,
        tx_packets=counters.tx_packets,
        tx_errors=counters.tx_errors,
        tx_dropped=counters.tx_dropped,
    )
