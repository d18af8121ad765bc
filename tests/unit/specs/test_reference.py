import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument
from orlop.specs.reference import parse_reference

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("me/app", "docker.io/me/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/a/b:c", "docker.io/a/b:c"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("host.example/a/b/c", "host.example/a/b/c:latest"),
        ("HOST/x", "HOST/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        (f"busybox@{SHA}", f"docker.io/library/busybox@{SHA}"),
        (f"busybox:tag@{SHA}", f"docker.io/library/busybox@{SHA}"),
        ("a_b/c__d/e-f.g", "docker.io/a_b/c__d/e-f.g:latest"),
    ],
)
def test_defaults(text: str, canonical: str) -> None:
    assert parse_reference(text).canonical == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Busybox",
        "a//b",
        "/a",
        "a/",
        "a:",
        "a:-x",
        "a:" + "x" * 129,
        "a@sha256:12",
        "a@md5:" + "a" * 32,
        "a@",
        "a:b:c",
        "../etc/passwd",
        "a/../b",
        "host.example/",
        "a" * 256,
        "0" * 64,
        "a b",
        "a\n",
        "a\0",
        "höst.example/x",
        "host.example:port/x",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidArgument, match="image reference"):
        parse_reference(text)


@given(st.text(max_size=300))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = parse_reference(text)
    except InvalidArgument:
        return
    assert parse_reference(parsed.canonical) == type(parsed)(
        registry=parsed.registry,
        repository=parsed.repository,
        tag=None if parsed.digest else parsed.tag,
        digest=parsed.digest,
    )
    assert ".." not in parsed.repository.split("/") and "\n" not in parsed.canonical
