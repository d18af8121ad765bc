"""How a registry wants to be spoken to: WWW-Authenticate, basic, and bearer tokens from a realm.

A realm is a URL that the registry names and that is shown the user's password, so it must be HTTPS unless the
registry itself is plain HTTP, and it may not point into this machine or its link unless the registry is there too
(CVE-2020-15157 and its kin). Owns the headers and the choice of requests; the transport sends them. Test:
tests/unit/registry/test_auth.py.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

from orlop.base.errors import PermissionDenied
from orlop.registry.credentials import Credentials
from orlop.registry.hosts import host_of, is_loopback

CLIENT_ID = "orlop"
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*,?\s*')
_SCHEME = re.compile(r"(Bearer|Basic)(?:\s+|$)", re.IGNORECASE)
METADATA_HOSTS = frozenset(("metadata.google.internal", "metadata", "instance-data"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way to authenticate that a registry offers."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


class TokenResponse(msgspec.Struct, frozen=True, kw_only=True):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None
    refresh_token: str = ""

    @property
    def bearer(self) -> str:
        return self.access_token or self.token


def parse_challenges(values: list[str]) -> list[Challenge]:
    """Parse WWW-Authenticate headers; schemes that are not known are left out."""
    challenges: list[Challenge] = []
    for value in values:
        at = 0
        while match := _SCHEME.match(value, at):
            at = match.end()
            parameters: dict[str, str] = {}
            while not _SCHEME.match(value, at) and (found := _PARAMETER.match(value, at)):
                quoted = found[2]
                parameters[found[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else found[3]
                at = found.end()
            challenges.append(
                Challenge(
                    scheme=match[1].lower(),
                    realm=parameters.get("realm", ""),
                    service=parameters.get("service", ""),
                    scope=parameters.get("scope", ""),
                )
            )
    return challenges


def basic_header(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def check_target(url: str, origin_scheme: str, origin_authority: str, what: str, *, base: str = "") -> SplitResult:
    """Return a URL that a registry names, split; raises PermissionDenied when it may not be asked.

    A relative one is taken from ``base``. No plain HTTP for a registry that is on HTTPS; nothing on this machine or
    link unless the registry is there itself.
    """
    try:
        parts = urlsplit(urljoin(base, url))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise PermissionDenied(f"registry {origin_authority}: {what} {url[:200]!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise PermissionDenied(f"registry {origin_authority}: {what} {url[:200]!r} is not an http or https URL")
    if parts.scheme == "http" and origin_scheme == "https":
        raise PermissionDenied(f"registry {origin_authority}: {what} {host} is plain http, the registry is https")
    origin = host_of(origin_authority)
    if _is_inside(host) and host.lower() != origin.lower() and not _is_inside(origin):
        raise PermissionDenied(f"registry {origin_authority}: {what} {host} points into this machine or its link")
    return parts


def is_inside_address(text: str) -> bool:
    """Say whether an IP address is loopback, link-local (cloud metadata) or unspecified."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _is_inside(host: str) -> bool:
    return is_loopback(host) or is_inside_address(host) or host.lower().rstrip(".") in METADATA_HOSTS
