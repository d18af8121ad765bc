"""What a caller knows about itself towards a registry. Never printed, never stored, never logged.

Test: tests/unit/registry/test_auth.py.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from orlop.base.errors import InvalidArgument

DOCKER_HOSTS = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credentials:
    """CRI's AuthConfig. ``registry_token`` is a bearer token as it is; ``identity_token`` is exchanged for one."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server_address: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    @staticmethod
    def from_basic(encoded: str, server_address: str = "") -> Credentials:
        """Decode docker's ``auth`` field (base64 of ``user:password``); raises InvalidArgument."""
        try:
            username, colon, password = base64.b64decode(encoded, validate=True).decode().strip("\0").partition(":")
        except ValueError as error:
            raise InvalidArgument("registry credentials: auth is not base64 of user:password") from error
        if not colon:
            raise InvalidArgument("registry credentials: auth has no colon between user and password")
        return Credentials(username=username, password=password, server_address=server_address)

    @property
    def fingerprint(self) -> str:
        """Tell credentials apart without keeping them."""
        fields = (self.username, self.password, self.identity_token, self.registry_token, self.server_address)
        return hashlib.sha256("\0".join(fields).encode()).hexdigest()

    def serve(self, authority: str, registry: str) -> bool:
        """Say whether they may be shown to a host: only to the registry that the image names, or to the one they
        name.
        """
        if self.server_address:
            named = self.server_address.partition("://")[2] or self.server_address
            named = named.partition("/")[0]
            return _same(named, authority)
        return _same(registry, authority)


def _same(left: str, right: str) -> bool:
    return left.lower() == right.lower() or (left in DOCKER_HOSTS and right in DOCKER_HOSTS)
