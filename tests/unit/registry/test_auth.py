from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument, PermissionDenied
from orlop.registry.auth import check_target, parse_challenges
from orlop.registry.credentials import Credentials
from orlop.registry.hosts import lookup_hosts


def test_challenges() -> None:
    (bearer,) = parse_challenges(['Bearer realm="https://a/t",service="x, \\"y\\"",scope="repository:a:pull,push"'])
    assert (bearer.scheme, bearer.realm, bearer.service) == ("bearer", "https://a/t", 'x, "y"')
    assert bearer.scope == "repository:a:pull,push"
    assert [c.scheme for c in parse_challenges(['Basic realm="x", Bearer realm="https://a"', "Digest x=1"])] == [
        "basic",
        "bearer",
    ]
    assert parse_challenges(["", "Bearer", "nonsense"])[0].realm == ""


@given(st.text(max_size=200))
def test_any_header_parses(text: str) -> None:
    parse_challenges([text, "Bearer " + text])


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere.example/t",
        "https://127.0.0.1/t",
        "https://localhost/t",
        "https://[::1]/t",
        "https://169.254.169.254/latest",
        "https://[::ffff:169.254.169.254]/x",
        "https://0.0.0.0/",
        "https://metadata.google.internal/",
        "file:///etc/passwd",
        "https://[::1/t",
        "https://registry.example:port/",
        "",
    ],
)
def test_targets_that_are_refused(url: str) -> None:
    with pytest.raises(PermissionDenied, match=r"registry registry\.example"):
        check_target(url, "https", "registry.example", "realm")


def test_targets_that_may_be_asked() -> None:
    check_target("https://auth.example/token", "https", "registry.example", "realm")
    check_target("http://127.0.0.1:5001/token", "http", "localhost:5000", "realm")


def test_credentials_go_to_their_registry_only() -> None:
    credentials = Credentials(username="u", password="p")
    assert credentials.serve("registry.example", "registry.example")
    assert credentials.serve("registry-1.docker.io", "docker.io")
    assert not credentials.serve("mirror.example", "docker.io")
    named = Credentials(username="u", server_address="https://mirror.example/v1/")
    assert named.serve("mirror.example", "docker.io") and not named.serve("registry-1.docker.io", "docker.io")
    assert Credentials.from_basic("dTpw").password == "p"
    for bad in ("***", "dQ=="):
        with pytest.raises(InvalidArgument):
            Credentials.from_basic(bad)


def test_hosts_look_up(tmp_path: Path) -> None:
    assert lookup_hosts(None, "docker.io")[0].base == "https://registry-1.docker.io/v2"
    assert lookup_hosts(None, "127.0.0.1:5000")[0].scheme == "http"
    assert lookup_hosts(tmp_path, "localhost:5000")[0].scheme == "http"
    assert lookup_hosts(tmp_path, "registry.example")[0].scheme == "https"
    for directory, authority in (("_default", "any"), ("r.example:5000", "plain"), ("r.example_5000_", "best")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "hosts.toml").write_text(f'[host."https://{authority}.example"]\n')
        found = lookup_hosts(tmp_path, "r.example:5000")
        assert [h.authority for h in found] == [f"{authority}.example", "r.example:5000"]
    (tmp_path / "certs.example").mkdir()
    (tmp_path / "certs.example" / "a.crt").touch()
    assert lookup_hosts(tmp_path, "certs.example")[0].ca == (tmp_path / "certs.example" / "a.crt",)
