"""Image references: ``[registry/]repository[:tag][@digest]`` with the defaults that docker gave the world.

``busybox`` is ``docker.io/library/busybox:latest``. Owns the grammar (distribution-spec, distribution/reference);
never asks a registry. Test: tests/unit/specs/test_reference.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orlop.base.errors import InvalidArgument
from orlop.base.ids import Digest
from orlop.specs.digest import parse_digest

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
NAME_BYTES = 255
"""distribution/reference's limit on registry and repository together."""

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_BARE_ID = re.compile(r"[a-f0-9]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A parsed reference; a digest, when there is one, decides, and the tag is only what the user called it."""

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None

    @property
    def name(self) -> str:
        """Registry and repository, fully qualified."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The one spelling under which a name is stored: ``name@digest`` or ``name:tag``."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    @property
    def target(self) -> str:
        """What stands after ``/manifests/`` in a request."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: Digest) -> str:
        """Return the repo digest of this name."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        return self.canonical


def parse_reference(text: str) -> Reference:
    """Parse what a user or kubelet wrote; raises InvalidArgument naming the part that is wrong."""
    shown = text if len(text) <= NAME_BYTES else f"{text[:NAME_BYTES]}..."
    subject = f"image reference {shown!r}"
    rest, at, digest_text = text.partition("@")
    try:
        digest = parse_digest(digest_text) if at else None
    except InvalidArgument as error:
        raise InvalidArgument(f"{subject}: {error}") from error
    tag: str | None = None
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        rest, tag = rest[:colon], rest[colon + 1 :]
        if _TAG.fullmatch(tag) is None:
            raise InvalidArgument(f"{subject}: tag {tag[:130]!r} is not 1 to 128 of letters, digits, '_', '.', '-'")
    elif digest is None:
        tag = DEFAULT_TAG
    registry, repository = _split(rest)
    if not repository:
        raise InvalidArgument(f"{subject}: has no repository")
    if _REGISTRY.fullmatch(registry) is None:
        raise InvalidArgument(f"{subject}: registry {registry!r} is not a host name with an optional port")
    if _REPOSITORY.fullmatch(repository) is None:
        reason = "must be lower case" if repository.lower() != repository else "is malformed"
        raise InvalidArgument(f"{subject}: repository {repository!r} {reason}")
    if len(registry) + 1 + len(repository) > NAME_BYTES:
        raise InvalidArgument(f"{subject}: name is longer than {NAME_BYTES} bytes")
    if _BARE_ID.fullmatch(rest) and tag == DEFAULT_TAG and digest is None:
        raise InvalidArgument(f"{subject}: is an image id, not a name")
    return Reference(registry=registry, repository=repository, tag=tag, digest=digest)


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        registry, repository = first, rest
    else:
        registry, repository = DEFAULT_REGISTRY, name
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and repository and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository
