"""What stands in a pod's /etc/hosts, /etc/resolv.conf and /etc/hostname.

Every value that comes from a pod's config is checked before it becomes part of a line: a newline in a search domain would
otherwise add a name server, a blank in a host name another name (compare CVE-2022-4318, where it was /etc/passwd).
Reads the host's own files, writes none. Test: tests/unit/network/test_hostsfiles.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.base.limits import HOSTS_FILE_BYTES
from orlop.specs.pod import DnsConfig

HOSTS: Final = Path("/etc/hosts")
RESOLV_CONF: Final = Path("/etc/resolv.conf")
RESOLVED_UPSTREAM: Final = Path("/run/systemd/resolve/resolv.conf")
"""What systemd-resolved itself asks, when /etc/resolv.conf names only its stub on loopback."""

_HOSTNAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_WORD: Final = re.compile(r"[!-~]+")
_LOCAL: Final = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "ff00::0\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def check_hostname(hostname: str) -> str:
    """Return a host name that may stand in a file; raises InvalidArgument."""
    if len(hostname) > 253 or not _HOSTNAME.fullmatch(hostname):
        raise InvalidArgument(f"hostname: {hostname[:80]!r} is not a host name")
    return hostname


def render_hostname(hostname: str) -> str:
    """Return /etc/hostname."""
    return f"{check_hostname(hostname)}\n"


def render_hosts(hostname: str, ips: Sequence[str], *, host_network: bool = False, source: Path = HOSTS) -> str:
    """Return /etc/hosts: the host's own with the host's network, else localhost and the pod under each of its addresses."""
    if host_network:
        return _read(source)
    name = check_hostname(hostname)
    names = name if "." not in name else f"{name} {name.split('.', 1)[0]}"
    lines = [f"{ipaddress.ip_address(ip)}\t{names}\n" for ip in ips]
    return _LOCAL + "".join(lines)


def render_resolv_conf(
    dns: DnsConfig | None,
    *,
    host_network: bool = False,
    source: Path = RESOLV_CONF,
    upstream: Path = RESOLVED_UPSTREAM,
) -> str:
    """Return /etc/resolv.conf: what the config says, or the host's when it says nothing.

    A pod with its own network cannot reach a resolver on the host's loopback: if the host's file names only such, the file that
    names the real ones is used, if there is one.
    """
    if dns is not None and (dns.servers or dns.searches or dns.options):
        return _from_config(dns)
    content = _read(source)
    if not host_network and _only_loopback(content):
        content = _read(upstream) or content
    return content


def _from_config(dns: DnsConfig) -> str:
    lines = []
    if dns.searches:
        lines.append("search " + " ".join(_word("dns_config.searches", each) for each in dns.searches))
    for place, server in enumerate(dns.servers):
        lines.append(f"nameserver {_server(f'dns_config.servers[{place}]', server)}")
    if dns.options:
        lines.append("options " + " ".join(_word("dns_config.options", each) for each in dns.options))
    return "".join(f"{line}\n" for line in lines)


def _word(field: str, value: str) -> str:
    if not _WORD.fullmatch(value) or value[0] in "#;":
        raise InvalidArgument(f"{field}: {value[:80]!r} is not one printable word")
    return value


def _server(field: str, value: str) -> str:
    # A zone (fe80::1%eth0) is allowed: resolv.conf(5) knows it.
    address, _, zone = value.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise InvalidArgument(f"{field}: {value[:80]!r} is not an IP address") from None
    if zone:
        _word(field, zone)
    return value


def _only_loopback(content: str) -> bool:
    servers = [
        line.split()[1] for line in content.splitlines() if line.startswith("nameserver") and len(line.split()) > 1
    ]
    return bool(servers) and all(server.startswith("127.") or server == "::1" for server in servers)


def _read(path: Path) -> str:
    """Read a file of the host; one that is not there is empty."""
    try:
        with path.open("rb") as file:
            data = file.read(HOSTS_FILE_BYTES + 1)
    except FileNotFoundError:
        return ""
    if len(data) > HOSTS_FILE_BYTES:
        raise FailedPrecondition(f"{path}: is larger than {HOSTS_FILE_BYTES} bytes")
    return data.decode(errors="surrogateescape")
