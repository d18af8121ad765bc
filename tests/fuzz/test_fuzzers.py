"""Runs every fuzzer for a bounded time, from seeds that the parser under it accepts. ORLOP_FUZZ_SECONDS lengthens it.

A crash, a report of a sanitizer, a hang or a leak fails the test and leaves its input in the test's directory. A fuzzer that does not get anywhere
fails too: each must have run many inputs and reached about as many edges as its seeds alone did when this was written.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from orlop.monitor import protocol
from orlop.oci.codec import encode
from orlop.oci.ops import make_plan
from tests.kernel.executor.harness import container, standard
from tests.kernel.executor.test_exec import join
from tests.kernel.executor.test_pod import SHARED

ROOT = Path(__file__).resolve().parents[2]
SECONDS = os.environ.get("ORLOP_FUZZ_SECONDS", "4")
RUNS_MIN = 200

needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang with libFuzzer")


def fuzz(command: list[str | Path], tmp_path: Path, seeds: dict[str, bytes], *options: str, edges: int) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, data in seeds.items():
        (corpus / name).write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [
            *command,
            f"-max_total_time={SECONDS}",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            f"-artifact_prefix={tmp_path}/",
            *options,
            corpus,
        ],
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    runs = int(re.findall(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)[-1])
    reached = max(int(number) for number in re.findall(r"\bcov: (\d+)", done.stderr))
    print(f"\n{Path(command[-1]).name}: {runs} inputs, {reached} edges")
    assert runs >= RUNS_MIN, done.stderr[-4000:]
    assert reached >= edges, done.stderr[-4000:]
    assert not list(scratch.iterdir())


def native(name: str) -> list[str | Path]:
    subprocess.run(["make", "-s", "-C", ROOT / "native", f"../build/native/fuzz/{name}"], check=True)
    return [ROOT / "build/native/fuzz" / name]


@needs_clang
def test_plan_decoder(tmp_path: Path) -> None:
    plans = (standard("id"), container("id"), join("id"), SHARED)
    seeds = {str(index): encode(make_plan(ops)) for index, ops in enumerate(plans)}
    fuzz(native("fuzz_plan"), tmp_path, seeds, "-max_len=8192", edges=200)


@needs_clang
def test_requests_to_the_monitor(tmp_path: Path) -> None:
    values = {"U32": 1, "U64": 1 << 40, "STR": "id", "FD": 3, "U32S": (3, 4, 5)}
    seeds = {}
    for kind in protocol.MESSAGES:
        if kind.direction == "REQ":
            message = kind(**{name: values[wire] for wire, name in protocol.wire_fields(kind)})
            data, fds = protocol.encode(message, 1)
            seeds[kind.msgname] = bytes([len(fds)]) + data
    fuzz(native("fuzz_monitor_protocol"), tmp_path, seeds, "-max_len=2048", edges=120)


@needs_clang
def test_log_lines(tmp_path: Path) -> None:
    seeds = {"lines": b"\4\0" + b"\0\4one\n" + b"\1\6par\ntw" + b"\1\2o\n" + b"\x0e\0" + b"\0\1x"}
    fuzz(native("fuzz_crilog"), tmp_path, seeds, "-max_len=4096", edges=190)


def archive(*entries: tuple[str, bytes, dict[str, object]], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, type, attributes of TarInfo); a ``data`` attribute is its content. The byte before it says: in one piece."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, typeflag, attributes in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = typeflag, 0o644
            data = attributes.pop("data", b"")
            assert isinstance(data, bytes)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    # What tarfile fills its last record with is of no use to a fuzzer.
    return b"\0" + buffer.getvalue().rstrip(b"\0") + b"\0" * 1536


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes", "GNU.sparse.realsize": "4096"}


@needs_clang
@pytest.mark.kernel
def test_unpacker(tmp_path: Path) -> None:
    long_name = "d/" * 60 + "f"
    xattrs = {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.capability": "x" * 20, "mtime": "1.5"}
    seeds = {
        "plain": archive(
            ("d", tarfile.DIRTYPE, {"mode": 0o2755}),
            ("d/f", tarfile.REGTYPE, {"data": b"hello" * 300, "uid": 7}),
            ("d/s", tarfile.SYMTYPE, {"linkname": "../d/f"}),
            ("d/h", tarfile.LNKTYPE, {"linkname": "d/f"}),
            ("null", tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3}),
            ("pipe", tarfile.FIFOTYPE, {}),
            ("a/b/c", tarfile.REGTYPE, {"data": b"x"}),
        ),
        "whiteouts": archive(
            ("d/.wh.gone", tarfile.REGTYPE, {}),
            ("d/.wh..wh..opq", tarfile.REGTYPE, {}),
            ("d/gone", tarfile.DIRTYPE, {}),
        ),
        "pax": archive((long_name, tarfile.REGTYPE, {"data": b"y", "pax_headers": xattrs})),
        "gnu": archive(
            (long_name, tarfile.REGTYPE, {"data": b"y", "uid": 1 << 22}),
            ("link", tarfile.SYMTYPE, {"linkname": long_name}),
            kind=tarfile.GNU_FORMAT,
        ),
        "sparse": archive(
            ("s", tarfile.REGTYPE, {"data": b"1\n1024\n5\n".ljust(512, b"\0") + b"12345", "pax_headers": SPARSE})
        ),
        "hostile": archive(
            ("l", tarfile.SYMTYPE, {"linkname": "/"}),
            ("l/victim", tarfile.REGTYPE, {"data": b"z"}),
            ("up", tarfile.SYMTYPE, {"linkname": "../.."}),
            ("up/victim", tarfile.LNKTYPE, {"linkname": "l/victim"}),
        ),
    }
    fuzz(native("fuzz_unpack"), tmp_path, seeds, "-max_len=16384", edges=1200)


def test_documents_of_registries(tmp_path: Path) -> None:
    """atheris: manifests, indexes, configs, references, hosts.toml, challenges. The last byte says which (FuzzedDataProvider)."""
    digest = b"sha256:" + b"a" * 64

    def descriptor(kind: bytes) -> bytes:
        return b'{"mediaType":"application/vnd.oci.image.' + kind + b'","digest":"' + digest + b'","size":5}'

    layer = descriptor(b"layer.v1.tar+gzip")
    manifest = b'{"schemaVersion":2,"config":' + descriptor(b"config.v1+json") + b',"layers":[' + layer + b"]}"
    platform = b',"platform":{"os":"linux","architecture":"amd64"}}'
    index = b'{"schemaVersion":2,"manifests":[' + descriptor(b"manifest.v1+json")[:-1] + platform + b"]}"
    config = (
        b'{"os":"linux","architecture":"amd64","config":{"User":"1:2","Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["'
        + digest
        + b'"]}}'
    )
    seeds = {
        "manifest": manifest + b"\2\0",
        "index": index + b"\1\0",
        "untyped": index + b"\0\0",
        "config": config + b"\1",
        "reference": b"\1registry.example:5000/a/b:tag@" + digest + b"\2",
        "hosts": b'\1server = "https://a"\n[host."https://b"]\n  capabilities = ["pull"]\n' + b"\3",
        "challenge": b'\1Bearer realm="https://registry.example/token",service="s",scope="repository:a:pull"' + b"\4",
        "target": b"\1https://registry.example/v2/" + b"\5",
    }
    fuzz([sys.executable, ROOT / "tests/fuzz/fuzz_manifest.py"], tmp_path, seeds, "-max_len=8192", edges=170)


def test_clients_of_the_streaming_server(tmp_path: Path) -> None:
    """atheris: requests, SPDY and WebSocket frames, terminal sizes. The last bytes say which, and where to cut."""
    frames = bytes.fromhex("80030006000000040000000780030004000000080000000100000007") + b"\0\0\0\1\1\0\0\3end"
    masked = b"\x82\x83\1\2\3\4" + bytes((0 ^ 1, ord("a") ^ 2, ord("b") ^ 3)) + b"\x89\x80\1\2\3\4"
    request = b"GET /exec/t HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    cuts = b"\x30\1\x40\1\0"
    seeds = {
        **{
            f"{name} {which}": data + cuts + bytes((which,))
            for which in range(7)
            for name, data in (("spdy", frames), ("ws", masked))
        },
        "size": b'{"Width": 80, "Height": 24}' + cuts + b"\5",
        "request": request + cuts + b"\6",
    }
    fuzz([sys.executable, ROOT / "tests/fuzz/fuzz_streaming.py"], tmp_path, seeds, "-max_len=4096", edges=150)
