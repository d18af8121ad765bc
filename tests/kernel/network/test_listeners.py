"""Listeners of the host: found by address and family; connections and other sockets are none."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import FailedPrecondition
from orlop.kernel.listeners import listener, parse_table
from orlop.network.attachment import PortMapping

pytestmark = pytest.mark.kernel
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
ANY4, ANY6 = ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::")
LOOP4, LOOP6 = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")


def test_tcp_and_udp_by_address(host):
    with host.listen("127.0.0.1", 8080), host.bound("0.0.0.0", 8053):
        assert listener(TCP, LOOP4, 8080) == "127.0.0.1:8080"
        assert listener(TCP, ANY4, 8080) == "127.0.0.1:8080"
        assert listener(TCP, ipaddress.ip_address("127.0.0.2"), 8080) is None
        assert listener(TCP, ANY6, 8080) is None and listener(UDP, ANY4, 8080) is None
        assert listener(UDP, LOOP4, 8053) == "0.0.0.0:8053"
        assert listener(TCP, ANY4, 8053) is None
        assert listener(socket.IPPROTO_SCTP, ANY4, 8080) is None
    assert listener(TCP, ANY4, 8080) is None


def test_a_socket_of_both_families(host):
    with host.listen("::", 8080):
        assert listener(TCP, ANY6, 8080) == "[::]:8080"
        assert listener(TCP, LOOP6, 8080) == "[::]:8080"
        assert listener(TCP, ANY4, 8080) == "[::]:8080"
        assert listener(TCP, LOOP4, 8080) == "[::]:8080"


def test_an_outgoing_connection_from_that_port_is_no_listener(host):
    with host.listen("127.0.0.1", 8080) as server, host.socket() as client:
        client.bind(("127.0.0.1", 9090))
        client.connect(("127.0.0.1", 8080))
        accepted, _ = server.accept()
        with accepted:
            assert listener(TCP, ANY4, 9090) is None


async def test_the_bridge_refuses_such_a_host_port(host, bridge, new_pod):
    pod = new_pod()
    for mapping in (
        PortMapping(container_port=80, host_port=8080),
        PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"),
    ):
        with host.listen("127.0.0.1", 8080), pytest.raises(FailedPrecondition) as caught:
            await bridge.attach(pod.request(mapping))
        assert "8080 is in use by a process of this host, at 127.0.0.1:8080" in str(caught.value)
        assert str(caught.value).startswith(f"sandbox {pod.sandbox_id}: host port tcp ")
    with host.listen("127.0.0.1", 8080):
        await bridge.attach(pod.request(PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.2")))
    await bridge.detach(pod.request())


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def test_the_kernels_words():
    line4 = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n"
    line6 = "   1: 00000000000000000000000001000000:1F90 " + "0" * 32 + ":0000 0A 00000000:00000000 00:0 0 0 0 1\n"
    assert parse_table(HEAD + line4 + line6, "0A") == [(LOOP4, 80), (LOOP6, 8080)]
    assert parse_table(HEAD + line4, "01") == []


@given(st.text(max_size=300))
def test_any_text_parses(text: str) -> None:
    parse_table(HEAD + text, "0A")
