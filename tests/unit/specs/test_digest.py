import pytest

from orlop.base.errors import InvalidArgument
from orlop.base.ids import DiffId
from orlop.specs.digest import chain_id, matches, parse_digest, sha256_of


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha1:" + "a" * 40, "sha256:../" + "a" * 61],
)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidArgument, match="digest"):
        parse_digest(text)


def test_matches() -> None:
    assert matches(b"x", sha256_of(b"x")) and not matches(b"y", sha256_of(b"x"))
    assert parse_digest("sha512:" + "0" * 128)


def test_chain_id_is_the_specifications() -> None:
    one, two = DiffId("sha256:" + "1" * 64), DiffId("sha256:" + "2" * 64)
    assert chain_id([one]) == one
    assert chain_id([one, two]) == sha256_of(f"{one} {two}".encode())
    assert chain_id([]) == ""
