import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.base.errors import InvalidArgument, NotFound, OrlopError, ResourceExhausted
from orlop.specs.descriptor import Platform
from orlop.specs.image import (
    Index,
    as_arguments,
    check_platform,
    host_platform,
    parse_config,
    parse_document,
    parse_platform,
    select_platform,
    split_user,
)

D = "sha256:" + "a" * 64


def index(*platforms: dict[str, str] | None) -> Index:
    manifests = [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + f"{n:064x}", "size": 1}
        | ({"platform": p} if p else {})
        for n, p in enumerate(platforms)
    ]
    data = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    parsed = parse_document(data, "application/vnd.oci.image.index.v1+json", "image x")
    assert isinstance(parsed, Index)
    return parsed


def chosen(found: Index, wanted: str) -> int:
    return int(select_platform(found, parse_platform(wanted), "image x").digest[7:], 16)


def test_platform_selection() -> None:
    arm = [{"os": "linux", "architecture": "arm", "variant": v} for v in ("v5", "v6", "v7")]
    found = index(
        {"os": "unknown", "architecture": "unknown"},
        {"os": "windows", "architecture": "amd64"},
        {"os": "linux", "architecture": "amd64", "variant": "v3"},
        {"os": "linux", "architecture": "x86_64"},
        {"os": "linux", "architecture": "arm64"},
        *arm,
    )
    assert chosen(found, "linux/amd64") == 3
    assert chosen(found, "arm64") == 4 and chosen(found, "linux/aarch64/v8") == 4
    assert [chosen(found, f"linux/arm/{v}") for v in ("v5", "v6", "v7")] == [5, 6, 7]
    with pytest.raises(NotFound, match="no image for linux/riscv64"):
        chosen(found, "riscv64")
    assert chosen(index({"os": "linux", "architecture": "arm64"}, None), "amd64") == 1
    with pytest.raises(NotFound, match="only nothing"):
        chosen(index(), "amd64")
    assert host_platform().os == "linux"


@pytest.mark.parametrize("text", ["", "linux", "a/b/c/d", "linux//v7", "/amd64"])
def test_platforms_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_platform(text)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (None, "")),
        ("0", (0, "")),
        ("1003:1004", (1003, "")),
        ("www-data:1004", (None, "www-data")),
        ("2147483647", (2147483647, "")),
        ("2147483648:0", (None, "2147483648")),
        ("4294967296", (None, "4294967296")),
        ("-1", (None, "-1")),
        ("1e3", (None, "1e3")),
        ("٣", (None, "٣")),
        ("9" * 5000, (None, "9" * 5000)),
    ],
)
def test_users_do_not_wrap(user: str, expected: tuple[int | None, str]) -> None:
    assert split_user(user) == expected


def test_config_with_what_go_writes() -> None:
    config = parse_config(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": None, "Entrypoint": ["/x"], "Env": None, "Labels": None, "Volumes": {"/v": {}}},
                "rootfs": {"type": "layers", "diff_ids": None},
                "history": [{"created": "x"}],
            }
        ).encode(),
        "image x",
    )
    assert config.diff_ids == () and config.process.volumes == {"/v": {}} and as_arguments(config.process.cmd) == ()
    assert as_arguments("echo hi") == ("/bin/sh", "-c", "echo hi")
    check_platform(config, Platform(os="linux", architecture="amd64"), "image x")
    with pytest.raises(NotFound, match="is an image for linux/amd64"):
        check_platform(config, Platform(os="linux", architecture="arm64"), "image x")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"rootfs": {"diff_ids": ["sha256:zz"]}}, InvalidArgument),
        ({}, InvalidArgument),
        ({"rootfs": {}, "config": {"Env": "A=B"}}, InvalidArgument),
        ({"rootfs": {}, "config": {"Env": ["A=" + "x" * (limits.IMAGE_ENV_BYTES + 1)]}}, ResourceExhausted),
    ],
)
def test_bad_configs(config: dict[str, object], kind: type[OrlopError]) -> None:
    with pytest.raises(kind):
        parse_config(json.dumps(config).encode(), "image x")


@given(
    st.binary(max_size=200), st.sampled_from(["", "application/vnd.oci.image.index.v1+json", "text/html; charset=x"])
)
def test_any_bytes_are_refused_or_parsed(data: bytes, content_type: str) -> None:
    with suppress(OrlopError):
        parse_document(data, content_type, "image x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([D, "application/json"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["manifests", "layers", "config", "digest", "size", "mediaType", "platform"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["schemaVersion", "manifests", "layers", "config", "mediaType"]), json_values))
def test_any_document_is_refused_or_parsed(document: dict[str, object]) -> None:
    with suppress(OrlopError):
        parse_document(json.dumps(document).encode(), "", "image x")
