"""Image documents: manifest, index and config, of OCI (image-spec) and docker (schema 2), as frozen objects.

A document is read once, by the type that it itself and its transport agree on; a document that could be read as both
index and manifest is refused (CVE-2021-41190). Unknown fields are ignored here because the bytes themselves are kept.
Never fetches. Test: tests/unit/specs/test_image.py.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from orlop.base import limits
from orlop.base.errors import InvalidArgument, NotFound, ResourceExhausted, Unimplemented
from orlop.base.ids import DiffId
from orlop.specs.descriptor import Descriptor, Platform
from orlop.specs.digest import parse_digest
from orlop.specs.strict_json import convert, parse_json, read_json

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
MANIFEST_TYPES = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
INDEX_TYPES = frozenset((OCI_INDEX, DOCKER_LIST))
CONFIG_TYPES = frozenset((OCI_CONFIG, DOCKER_CONFIG))
LAYER_TYPES = frozenset(
    (
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    )
)
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
"""What a request for a manifest accepts."""
UNTYPED = frozenset(("", "application/json", "application/octet-stream", "text/plain", "binary/octet-stream"))
"""Content types of servers that do not know what they serve; the document's own type counts then."""
UID_MAX = (1 << 31) - 1

_INDEX_KEYS = frozenset(("manifests",))
_MANIFEST_KEYS = frozenset(("config", "layers"))


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int
    media_type: str = ""
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The ``config`` member of an image config: what a container of it runs as. Go writes an empty list as null."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | str | None = None
    cmd: tuple[str, ...] | str | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "layers"
    diff_ids: tuple[DiffId, ...] | None = None


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str | None = None
    author: str | None = None
    config: ProcessConfig | None = None
    rootfs: RootFs

    @property
    def process(self) -> ProcessConfig:
        return self.config or ProcessConfig()

    @property
    def diff_ids(self) -> tuple[DiffId, ...]:
        return self.rootfs.diff_ids or ()


def parse_document(data: bytes, content_type: str, subject: str) -> Manifest | Index:
    """Parse a manifest or an index; ``content_type`` is what the registry or the descriptor calls it.

    Raises InvalidArgument (malformed, or types that disagree), ResourceExhausted (a limit), Unimplemented (schema 1).
    """
    value = read_json(data, limit=limits.MANIFEST_BYTES, subject=subject)
    own_type = value.get("mediaType", "")
    if not isinstance(own_type, str):
        raise InvalidArgument(f"{subject}: mediaType is not a string")
    declared = content_type.partition(";")[0].strip().lower()
    if declared in DOCKER_SCHEMA1 or value.get("schemaVersion") == 1:
        raise Unimplemented(f"{subject}: docker schema 1 manifests are not supported; push the image again")
    if own_type and declared not in UNTYPED and own_type != declared:
        raise InvalidArgument(f"{subject}: says that it is {own_type!r}, but was served as {declared!r}")
    if _INDEX_KEYS & value.keys() and _MANIFEST_KEYS & value.keys():
        raise InvalidArgument(f"{subject}: has members of both an index and a manifest")
    kind = own_type or (declared if declared not in UNTYPED else OCI_INDEX if "manifests" in value else OCI_MANIFEST)
    if kind in INDEX_TYPES:
        return _validated_index(convert(value, Index, subject=subject), subject)
    if kind in MANIFEST_TYPES:
        return _validated_manifest(convert(value, Manifest, subject=subject), subject)
    raise InvalidArgument(f"{subject}: media type {kind!r} is neither a manifest nor an index")


def _check_schema(version: int, subject: str) -> None:
    if version != 2:
        raise InvalidArgument(f"{subject}: schemaVersion is {version}, not 2")


def _validated_index(index: Index, subject: str) -> Index:
    _check_schema(index.schema_version, subject)
    if len(index.manifests) > limits.INDEX_DESCRIPTORS:
        raise ResourceExhausted(
            f"{subject}: index has {len(index.manifests)} entries, more than the limit of {limits.INDEX_DESCRIPTORS}"
        )
    for descriptor in index.manifests:
        descriptor.validated(subject)
    return index


def _validated_manifest(manifest: Manifest, subject: str) -> Manifest:
    _check_schema(manifest.schema_version, subject)
    if manifest.config.media_type not in CONFIG_TYPES:
        raise InvalidArgument(
            f"{subject}: is not a container image: its config has the media type {manifest.config.media_type!r}"
        )
    if len(manifest.layers) > limits.LAYERS_PER_IMAGE:
        raise ResourceExhausted(
            f"{subject}: image has {len(manifest.layers)} layers, more than the limit of {limits.LAYERS_PER_IMAGE}"
        )
    manifest.config.validated(subject)
    for layer in manifest.layers:
        layer.validated(subject)
        # Foreign layers are fetched from URLs that the manifest names: a request forgery by design, so they are
        # refused.
        if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
            raise Unimplemented(
                f"{subject}: layer {layer.digest} is foreign ({layer.media_type}), which is not supported"
            )
        if layer.media_type not in LAYER_TYPES:
            raise InvalidArgument(f"{subject}: layer {layer.digest} has the unknown media type {layer.media_type!r}")
    return manifest


def parse_config(data: bytes, subject: str) -> ImageConfig:
    """Parse an image config; raises InvalidArgument or ResourceExhausted."""
    config = parse_json(data, ImageConfig, limit=limits.IMAGE_CONFIG_BYTES, subject=subject)
    for diff_id in config.diff_ids:
        parse_digest(diff_id)
    process = config.process
    size = sum(map(len, process.env or ())) + sum(len(k) + len(v) for k, v in (process.labels or {}).items())
    if size > limits.IMAGE_ENV_BYTES:
        raise ResourceExhausted(
            f"{subject}: environment and labels take {size} bytes, more than the limit of {limits.IMAGE_ENV_BYTES}"
        )
    return config


def check_layers(manifest: Manifest, config: ImageConfig, subject: str) -> None:
    """Raise InvalidArgument unless the config has one diffID for each layer of the manifest."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidArgument(
            f"{subject}: manifest has {len(manifest.layers)} layers, but its config has {len(config.diff_ids)} diff_ids"
        )


def as_arguments(value: tuple[str, ...] | str | None) -> tuple[str, ...]:
    """Return Entrypoint or Cmd as a list: ancient images have one string, which docker runs by the shell."""
    if value is None:
        return ()
    return ("/bin/sh", "-c", value) if isinstance(value, str) else value


def split_user(user: str) -> tuple[int | None, str]:
    """Split ``USER`` as CRI's Image wants it: ``(uid, "")`` for a number, ``(None, name)`` for a name.

    ``1003:1004`` is uid 1003. A number that is no uid (2**31 and above, signed, exponents) is a name that no
    passwd file has, never a number that wraps (CVE-2024-40635): kubelet's runAsNonRoot then refuses it.
    """
    owner = user.partition(":")[0]
    if owner.isascii() and owner.isdigit() and len(owner) <= 10 and int(owner) <= UID_MAX:
        return int(owner), ""
    return None, owner


_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "loongarch64": "loong64",
}
_NORMAL = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_ARM_VARIANTS = {"armv7l": "v7", "armv6l": "v6", "aarch64": "v8"}


def host_platform() -> Platform:
    """Return the platform of this machine."""
    machine = os.uname().machine
    return Platform(
        os="linux", architecture=_ARCHITECTURES.get(machine, machine), variant=_ARM_VARIANTS.get(machine, "")
    )


def parse_platform(text: str) -> Platform:
    """Parse ``linux/arm64/v8`` or ``arm64``; raises InvalidArgument."""
    parts = text.lower().split("/")
    if len(parts) == 1 and parts[0] != "linux":
        parts = ["linux", *parts]
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidArgument(f"platform {text!r}: is not OS/ARCHITECTURE[/VARIANT]")
    return Platform(os=parts[0], architecture=_normal(parts[1]), variant=parts[2] if len(parts) == 3 else "")


def _normal(architecture: str) -> str:
    return _NORMAL.get(architecture.lower(), architecture.lower())


def _rank(offered: Platform, wanted: Platform) -> int | None:
    """Return how well a platform serves (0 is best), or None."""
    if offered.os.lower() != wanted.os or _normal(offered.architecture) != wanted.architecture:
        return None
    defaults = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
    default = defaults.get(wanted.architecture, "")
    want, offer = (wanted.variant or default).lstrip("v"), (offered.variant or default).lstrip("v")
    if want == offer:
        return 0
    # A newer machine runs what was built for an older variant; amd64 levels above v1 are not probed, so not taken.
    if want.isdigit() and offer.isdigit() and int(offer) < int(want):
        return int(want) - int(offer)
    return None


def select_platform(index: Index, wanted: Platform, subject: str) -> Descriptor:
    """Return the entry of an index that serves a platform best; raises NotFound naming what is offered."""
    best: tuple[int, Descriptor] | None = None
    unmarked: Descriptor | None = None
    offered: list[str] = []
    for descriptor in index.manifests:
        if descriptor.media_type not in MANIFEST_TYPES | INDEX_TYPES:
            continue
        if descriptor.platform is None:
            unmarked = unmarked or descriptor
            continue
        offered.append(str(descriptor.platform))
        rank = _rank(descriptor.platform, wanted)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, descriptor)
    if best is not None:
        return best[1]
    if unmarked is not None:
        return unmarked
    have = ", ".join(dict.fromkeys(offered)) or "nothing"
    raise NotFound(f"{subject}: has no image for {wanted}, only {have}")


def check_platform(config: ImageConfig, wanted: Platform, subject: str) -> None:
    """Raise NotFound when a config says that the image is for another platform; one that says nothing is accepted."""
    if not config.os and not config.architecture:
        return
    made_for = Platform(
        os=config.os or wanted.os, architecture=config.architecture or wanted.architecture, variant=config.variant
    )
    if _rank(made_for, wanted) is None:
        raise NotFound(f"{subject}: is an image for {made_for}, not for {wanted}")
