"""CRI log files, exactly: form of a line, partial lines, order of streams, reopening, junk, a lot of it."""

from __future__ import annotations

import os
import re
import time

import pytest

from tests.kernel.monitor.harness import VARIANT, PodUnderTest, logged, read_log

pytestmark = pytest.mark.kernel
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
MEGABYTES = 100 if VARIANT == "release" else 10


async def test_form_of_a_line(pod: PodUnderTest) -> None:
    before = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    await pod.run("c1", "echo one; echo two >&2; echo; printf three")
    await pod.exit_of("c1")
    lines = read_log(pod.log("c1"))
    assert all(STAMP.fullmatch(line.stamp) for line in lines)
    assert before <= lines[0].stamp <= time.strftime("%Y-%m-%dT%H:%M:%S~", time.gmtime())
    assert [(line.tag, line.text) for line in lines if line.stream == "stdout"] == [
        ("F", b"one"),
        ("F", b""),
        ("P", b"three"),
    ]
    assert [(line.tag, line.text) for line in lines if line.stream == "stderr"] == [("F", b"two")]
    assert (pod.log("c1").stat().st_mode & 0o777) == 0o640


async def test_a_line_that_comes_in_pieces_is_one_line(pod: PodUnderTest) -> None:
    await pod.run("c1", "read x; printf begin; read x; printf ' end\\n'; read x; printf rest", stdin=True)
    attached = await pod.client.attach("c1", stdin=True)
    attached.setblocking(True)
    for expected in (b"\x01begin", b"\x01 end\n", b"\x01rest"):
        attached.send(b"\n")
        assert attached.recv(100) == expected
    attached.close()
    await pod.exit_of("c1")
    assert [(line.tag, line.text) for line in read_log(pod.log("c1"))] == [("F", b"begin end"), ("P", b"rest")]


@pytest.mark.parametrize(("line_max", "length"), [(0, 16384), (0, 16385), (0, 50000), (100, 1000), (1 << 30, 40000)])
async def test_long_lines_are_cut(pod: PodUnderTest, line_max: int, length: int) -> None:
    await pod.run("c1", f"head -c {length} /dev/zero; echo; echo next", log_line_max=line_max)
    await pod.exit_of("c1")
    piece = line_max if 0 < line_max < 16384 else 16384
    lines = read_log(pod.log("c1"))
    full, rest = divmod(length, piece)
    sizes = [piece] * full + ([rest] if rest else [])
    assert [len(line.text) for line in lines] == [*sizes, 4]
    assert [line.tag for line in lines] == ["P"] * (len(sizes) - 1) + ["F", "F"]
    assert logged(pod.log("c1")) == b"\0" * length + b"\nnext\n"


NOTE = re.compile(rb"orlop: (\d+) lines, (\d+) bytes dropped: more than (\d+) bytes a second")


async def test_more_than_the_rate_is_dropped_by_lines_and_counted(pod: PodUnderTest) -> None:
    count, rate = 300_000, 10_000
    begun = time.monotonic()
    await pod.run("c1", f"seq {count}", log_rate=rate)
    await pod.exit_of("c1")
    passed = time.monotonic() - begun
    lines = read_log(pod.log("c1"))
    notes = [(int(found[1]), int(found[2])) for each in lines if (found := NOTE.fullmatch(each.text))]
    # The first burst is a bucket full; never more than that and what the time since gave.
    assert pod.log("c1").stat().st_size <= 65536 + rate * (passed + 1) + 200 * len(notes)
    kept = [int(each.text) for each in lines if not NOTE.fullmatch(each.text)]
    assert kept == sorted(set(kept))
    assert kept[:1000] == list(range(1, 1001)), "the first lines come before any limit"
    assert len(kept) + sum(number for number, _ in notes) == count
    size = sum(len(str(n)) for n in range(1, count + 1))
    assert sum(len(str(n)) for n in kept) + sum(each for _, each in notes) == size
    assert len(kept) < count / 10


async def test_a_long_line_that_lost_its_end_is_closed(pod: PodUnderTest) -> None:
    script = "for c in a b c d e f g h; do head -c 40000 /dev/zero | tr '\\000' $c; echo; done"
    # At a byte a second nothing comes back while the script runs, however slowly it does.
    await pod.run("c1", script, log_rate=1)
    await pod.exit_of("c1")
    lines = read_log(pod.log("c1"))
    joined = b""
    whole = []
    for each in lines:
        joined += each.text
        if each.tag == "F":
            whole.append(joined)
            joined = b""
    assert joined == b""
    texts = [each for each in whole if not NOTE.fullmatch(each)]
    assert all(len(set(each)) == 1 for each in texts), "pieces of different lines were joined"
    assert len(texts[0]) == 40000
    assert len(texts[-1]) < 40000
    dropped = [NOTE.fullmatch(each) for each in whole]
    lost = sum(int(each[2]) for each in dropped if each)
    assert sum(map(len, texts)) + lost == 8 * 40000


async def test_without_a_rate_nothing_is_dropped(pod: PodUnderTest) -> None:
    await pod.run("c1", "seq 300000")
    await pod.exit_of("c1")
    assert len(read_log(pod.log("c1"))) == 300000


async def test_junk_is_kept_byte_for_byte(pod: PodUnderTest) -> None:
    junk = os.urandom(300_000)
    (pod.base / "root/tmp/junk").write_bytes(junk)
    await pod.run("c1", "cat /tmp/junk; cat /tmp/junk >&2")
    await pod.exit_of("c1")
    assert logged(pod.log("c1"), "stdout") == junk
    assert logged(pod.log("c1"), "stderr") == junk


async def test_reopen_moves_later_lines_to_the_new_file(pod: PodUnderTest) -> None:
    await pod.run("c1", "while read x; do echo $x; done", stdin=True)
    attached = await pod.client.attach("c1", stdin=True)
    attached.setblocking(True)
    attached.send(b"old\n")
    assert attached.recv(100) == b"\x01old\n"
    rotated = pod.base / "rotated"
    pod.log("c1").rename(rotated)
    fd = os.open(pod.log("c1"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    await pod.client.reopen_log("c1", fd)
    os.close(fd)
    attached.send(b"new\n")
    assert attached.recv(100) == b"\x01new\n"
    await pod.client.reopen_log("c1", -1)
    attached.send(b"nowhere\n")
    assert attached.recv(100) == b"\x01nowhere\n"
    attached.close()
    await pod.client.close_stdin("c1")
    await pod.exit_of("c1")
    assert logged(rotated) == b"old\n"
    assert logged(pod.log("c1")) == b"new\n"


async def test_a_begun_line_stays_in_the_file_where_it_began(pod: PodUnderTest) -> None:
    """messages.def: the pending partial line first goes to the old file."""
    await pod.create("c1", "printf begun; read x; echo ' after'", stdin=True)
    attached = await pod.client.attach("c1", stdin=True)
    await pod.client.start("c1")
    attached.setblocking(True)
    assert attached.recv(100) == b"\x01begun"
    rotated = pod.base / "rotated"
    pod.log("c1").rename(rotated)
    fd = os.open(pod.log("c1"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    await pod.client.reopen_log("c1", fd)
    os.close(fd)
    attached.send(b"\n")
    attached.close()
    await pod.exit_of("c1")
    assert [(line.tag, line.text) for line in read_log(rotated)] == [("P", b"begun")]
    assert [(line.tag, line.text) for line in read_log(pod.log("c1"))] == [("F", b" after")]


async def test_without_a_log_output_is_discarded(pod: PodUnderTest) -> None:
    await pod.run("c1", "seq 100000", log=False)
    assert (await pod.exit_of("c1")).exit_code == 0
    assert not pod.log("c1").exists()


async def test_a_full_disk_does_not_stop_the_container(pod: PodUnderTest) -> None:
    created = await pod.create("c1", "seq 100000; exit 4")
    full = os.open("/dev/full", os.O_WRONLY)
    await pod.client.reopen_log("c1", full)
    os.close(full)
    await pod.client.start("c1")
    assert created.pid
    assert (await pod.exit_of("c1")).exit_code == 4


async def test_throughput_and_requests_meanwhile(pod: PodUnderTest) -> None:
    """While a container writes as fast as it can, the monitor answers; then every byte is there."""
    begun = time.perf_counter()
    await pod.run(
        "c1", f"yes 0123456789012345678901234567890123456789012345678901234567890 | head -c {MEGABYTES << 20}"
    )
    slowest = 0.0
    while not pod.events:
        asked = time.perf_counter()
        await pod.client.hello()
        slowest = max(slowest, time.perf_counter() - asked)
    seconds = time.perf_counter() - begun
    print(f"\n{MEGABYTES} MiB logged in {seconds:.2f} s, slowest answer meanwhile {slowest * 1000:.1f} ms")
    assert sum(len(line.text) + (line.tag == "F") for line in read_log(pod.log("c1"))) == MEGABYTES << 20
    assert slowest < 0.5
