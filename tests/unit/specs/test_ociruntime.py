"""What programs of OCI runtimes print: crun's and runc's own words, and anything at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.specs.ociruntime import Features, Version, failure_of, older_of, parse_features, parse_version

CRUN = b"crun version 1.8.1\ncommit: f8a096be\nrundir: /run/crun\nspec: 1.0.0\n+SYSTEMD +SELINUX\n"
RUNC = b"runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\ngo: go1.19.8\n"


def test_versions_of_crun_and_runc() -> None:
    assert parse_version(CRUN, "/x") == Version(program="crun", release="1.8.1", spec="1.0.0")
    assert parse_version(RUNC, "/x") == Version(program="runc", release="1.1.5+ds1", spec="1.0.2-dev")
    assert parse_version(b"runsc version release-1 2.0\nspec: new\n", "/x") == Version(program="runsc", release="2.0")


@pytest.mark.parametrize("output", [b"", b"\n", b"hello\n", b"1.0\n", b"\xff\xfe"])
def test_what_names_no_version_is_refused(output: bytes) -> None:
    with pytest.raises(InvalidArgument, match="/x: --version: .* names no version"):
        parse_version(output, "/x")


def test_features() -> None:
    document = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.1.0+dev",
        "mountOptions": ["ro", "rro"],
        "linux": {"namespaces": ["pid"], "mountExtensions": {"idmap": {"enabled": True}}},
    }
    expected = Features(recursive_read_only=True, idmapped_mounts=True)
    assert parse_features(json.dumps(document).encode(), "/x") == expected
    document = {"ociVersionMax": "1.0.2-dev", "mountOptions": ["ro"], "linux": {"mountExtensions": {"idmap": {}}}}
    assert parse_features(json.dumps(document).encode(), "/x") == Features(spec_max="1.0.2-dev")
    assert parse_features(b"{}", "/x") == Features()


@pytest.mark.parametrize("output", [b"", b"unknown command features", b"[]", b'{"mountOptions": 3}', b"[" * 100_000])
def test_what_is_no_features_document_is_refused(output: bytes) -> None:
    with pytest.raises(InvalidArgument, match="/x: features"):
        parse_features(output, "/x")


def test_a_features_document_has_a_limit() -> None:
    with pytest.raises(InvalidArgument, match="longer than"):
        parse_features(b" " * (limits.OCI_PROGRAM_OUTPUT_BYTES + 1), "/x")


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        ("1.3.0", "1.0.0", "1.0.0"),
        ("1.3.0", "1.0.2-dev", "1.0.2"),
        ("1.3.0", "1.3.0", "1.3.0"),
        ("1.3.0", "1.10.0", "1.3.0"),
        ("1.3.0", "2.0", "1.3.0"),
        ("1.3.0", "1.1", "1.1.0"),
        ("1.3.0", "", "1.3.0"),
        ("1.3.0", "new", "1.3.0"),
    ],
)
def test_the_older_version_is_what_both_understand(ours: str, theirs: str, chosen: str) -> None:
    assert older_of(ours, theirs) == chosen


def test_the_last_error_is_the_reason() -> None:
    runc = b'{"level":"warning","msg":"a"}\n{"level":"error","msg":"exec failed: \\"x\\"","time":"t"}\n'
    assert failure_of(runc) == 'exec failed: "x"'
    assert failure_of(runc + b'{"level":"warning","msg":"later"}\n') == 'exec failed: "x"'
    assert failure_of(b'{"msg":"unknown version specified","level":"error"}\n\n') == "unknown version specified"
    assert failure_of(b'{"level":"info","msg":"only this"}') == "only this"
    assert failure_of(b"panic: in plain words\n") == "panic: in plain words"
    assert failure_of(b'{"level":"error","msg":"two\\nlines\\u001b[31m"}') == "two\\nlines\\x1b[31m"
    assert failure_of(b"") == ""


def test_a_long_log_is_read_from_its_end() -> None:
    log = (
        b'{"level":"error","msg":"early"}\n' + b"x" * limits.OCI_PROGRAM_LOG_BYTES + b'\n{"level":"error","msg":"late"}'
    )
    assert failure_of(log) == "late"
    assert len(failure_of(b'{"level":"error","msg":"' + b"y" * 50_000 + b'"}')) == limits.OCI_PROGRAM_REASON_CHARACTERS


@given(st.binary(max_size=400))
def test_no_output_breaks_a_parser(data: bytes) -> None:
    assert failure_of(data).isprintable()
    for parse in (parse_version, parse_features):
        try:
            parse(data, "/x")
        except InvalidArgument as error:
            assert str(error).startswith("/x: ")
