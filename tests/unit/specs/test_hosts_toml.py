from pathlib import Path

import pytest

from orlop.base.errors import InvalidArgument
from orlop.specs.hosts_toml import parse_hosts

HERE = Path("/certs")


def test_containerds_example() -> None:
    parsed = parse_hosts(
        """
        server = "https://registry-1.docker.io"
        ca = "own.crt"
        [host."https://mirror.example:8443"]
          capabilities = ["pull", "resolve"]
          ca = ["/etc/a.crt", "b.crt"]
          client = [["c.crt", "c.key"], "both.pem"]
          skip_verify = true
          dial_timeout = "1m10s"
          [host."https://mirror.example:8443".header]
            x-one = "1"
            x-two = ["2", "3"]
        [host."http://plain/prefix/v2"]
          override_path = true
        [host."nopath.example/deep"]
        """,
        HERE,
        "hosts.toml",
    )
    first, second, third = parsed.hosts
    assert first.base == "https://mirror.example:8443/v2" and first.capabilities == {"pull", "resolve"}
    assert first.ca == (Path("/etc/a.crt"), HERE / "b.crt")
    assert first.client == ((HERE / "c.crt", HERE / "c.key"), (HERE / "both.pem", None))
    assert first.skip_verify and first.dial_timeout == 70 and first.headers == {"x-one": "1", "x-two": "2, 3"}
    assert second.base == "http://plain/prefix/v2" and "push" in second.capabilities
    assert third.base == "https://nopath.example/deep/v2"
    assert parsed.server is not None and parsed.server.ca == (HERE / "own.crt",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = 1", "server"),
        ("host = 1", "host"),
        ("[host.x]\ncapabilities = ['fly']", "'fly' is not one of"),
        ("[host.x]\nca = 5", "ca"),
        ("[host.x]\nskip_verify = 'yes'", "skip_verify"),
        ("[host.x]\ndial_timeout = '5'", "dial_timeout"),
        ("[host.x]\nclient = [['a','b','c']]", "client"),
        ("[host.'ftp://x']", "not an http"),
        ("[host.'https://user:pw@x']", "not an http"),
        ("[host.x]\ntypo = 1", "typo: is not a known key"),
        ("[[", "hosts.toml"),
        ("[host.'http://[x']", "not a URL"),
        ("[host.'http://x:y']", "not a URL"),
    ],
)
def test_errors_name_the_key(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_hosts(text, HERE, "hosts.toml")
