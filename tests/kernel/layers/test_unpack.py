"""The native unpacker on a real filesystem: what archives ask for, what they may not have, and that nothing lands
outside.
"""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from orlop.base import limits
from orlop.kernel.unpack import Unpacker, UnpackError, remove_tree
from tests.images.build import Layer

pytestmark = pytest.mark.kernel

LIMITS = {
    "stream_bytes": 1 << 30,
    "entries": limits.LAYER_ENTRIES,
    "path_bytes": limits.TAR_PATH_BYTES,
    "pax_bytes": limits.TAR_PAX_BYTES,
    "xattr_bytes": limits.TAR_XATTR_BYTES,
}


class Root:
    def __init__(self, outside: Path) -> None:
        self.outside = outside
        self.path = outside / "root"
        self.path.mkdir()
        (outside / "victim").write_text("untouched")
        self.implicit: list[str] = []

    def apply(self, tar: bytes, piece: int = 0, **changed: int) -> Root:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        unpacker = Unpacker(fd, **(LIMITS | changed))
        try:
            for at in range(0, len(tar), piece or len(tar) or 1):
                unpacker.feed(tar[at : at + (piece or len(tar))])
            self.implicit = unpacker.finish()
        finally:
            unpacker.close()
            os.close(fd)
        return self

    def refuses(self, tar: bytes, kind: str, words: str = "", **changed: int) -> None:
        with pytest.raises(UnpackError) as caught:
            self.apply(tar, **changed)
        assert caught.value.args[0] == kind, caught.value.args
        assert words in caught.value.args[3] or words in caught.value.args[2], caught.value.args
        self.unharmed()

    def unharmed(self) -> None:
        assert sorted(os.listdir(self.outside)) == ["root", "victim"]
        assert (self.outside / "victim").read_text() == "untouched"

    def lstat(self, name: str) -> os.stat_result:
        return os.lstat(self.path / name)


@pytest.fixture()
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def is_whiteout(st: os.stat_result) -> bool:
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


@pytest.mark.parametrize("piece", [0, 1, 511, 513, 7000])
def test_everything_that_a_layer_may_hold(root: Root, piece: int) -> None:
    tar = (
        Layer()
        .directory("d", mode=0o1777)
        .add("d/file", b"x" * 3000, mode=0o640, uid=7, gid=8, mtime=1234567890)
        .add("d/suid", b"s", mode=0o4755, uid=5)
        .add("d/link", kind=tarfile.SYMTYPE, link="/absolute/../target")
        .add("d/hard", kind=tarfile.LNKTYPE, link="d/file")
        .add("d/char", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        .add("d/fifo", kind=tarfile.FIFOTYPE)
        .add("./dot/./x", b"1")
        .add("/slash", b"2")
        .add("empty")
        .add("n" * 200 + "/" + "m" * 200, b"long")
        .tar()
    )
    root.apply(tar, piece)
    st = root.lstat("d/file")
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime, st.st_nlink) == (0o640, 7, 8, 1234567890, 2)
    assert stat.S_IMODE(root.lstat("d/suid").st_mode) == 0o4755
    assert stat.S_IMODE(root.lstat("d").st_mode) == 0o1777
    assert os.readlink(root.path / "d/link") == "/absolute/../target"
    assert root.lstat("d/char").st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(root.lstat("d/char").st_mode) == 0o666
    assert stat.S_ISFIFO(root.lstat("d/fifo").st_mode)
    assert (root.path / "slash").read_bytes() == b"2"
    assert (root.path / ("n" * 200) / ("m" * 200)).read_bytes() == b"long"
    assert sorted(root.implicit) == ["dot", "n" * 200]


@pytest.mark.parametrize("format_", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_gnu_tar_formats_come_out_the_same(root: Root, tmp_path_factory: pytest.TempPathFactory, format_: str) -> None:
    source = tmp_path_factory.mktemp("source")
    (source / "a").mkdir()
    (source / "a/b").write_bytes(os.urandom(100_000))
    (source / "a/c").symlink_to("b")
    os.link(source / "a/b", source / "a/d")
    os.utime(source / "a", (1_000_000_000, 1_000_000_000))
    if format_ in ("gnu", "pax"):
        (source / ("long" * 50)).write_text("x")
    done = subprocess.run(["tar", "c", f"--format={format_}", "-C", str(source), "."], capture_output=True, check=True)
    root.apply(done.stdout)
    subprocess.run(["diff", "-r", "--no-dereference", str(source), str(root.path)], check=True)
    assert root.lstat("a").st_mtime == 1_000_000_000


@pytest.mark.parametrize(
    "arguments", [["--format=gnu"], *([f"--sparse-version={v}", "--format=pax"] for v in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_are_expanded(root: Root, tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> None:
    source = tmp_path_factory.mktemp("source")
    with open(source / "sparse", "wb") as file:
        for at in range(0, 40):
            file.seek(at * 1_000_000)
            file.write(b"data%d" % at)
        file.truncate(50_000_000)
    done = subprocess.run(["tar", "c", "-S", *arguments, "-C", str(source), "sparse"], capture_output=True, check=True)
    assert len(done.stdout) < 1_000_000
    root.apply(done.stdout, 1000)
    assert (root.path / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert root.lstat("sparse").st_blocks * 512 < 1_000_000


def test_whiteouts_become_overlays(root: Root) -> None:
    tar = (
        Layer()
        .add("a/.wh.gone")
        .add("b/.wh..wh..opq")
        .directory("c")
        .add("c/x", b"1")
        .add(".wh.c")  # the layer has c as well: opaque
        .add(".wh.later")
        .directory("later")  # removed and made again: opaque
        .add("file", b"1")
        .add(".wh.file")
        .add(".wh..wh.plnk", b"aufs")
        .add("e/.wh.dir")
        .add("e/dir/below", b"2")  # a whiteout becomes a parent
        .tar()
    )
    root.apply(tar)
    assert is_whiteout(root.lstat("a/gone"))
    assert opaque(root.path / "b")
    assert opaque(root.path / "c") and (root.path / "c/x").exists()
    assert opaque(root.path / "later")
    assert (root.path / "file").read_bytes() == b"1"
    assert not (root.path / ".wh..wh.plnk").exists()
    assert opaque(root.path / "e/dir") and (root.path / "e/dir/below").read_bytes() == b"2"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..."])
def test_whiteouts_that_name_no_file_are_refused(root: Root, name: str) -> None:
    root.refuses(Layer().add(name).tar(), "refused", "whiteout")


def test_opaque_markers_take_linear_time(root: Root) -> None:
    layer = Layer()
    for _ in range(20_000):
        layer.add("d/.wh..wh..opq")
    started = time.monotonic()
    root.apply(layer.tar())
    assert time.monotonic() - started < 10


def test_xattrs_are_filtered(root: Root) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    given = {
        "SCHILY.xattr.user.mine": "value",
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
        "SCHILY.xattr.security.selinux": "system_u:object_r:shadow_t:s0",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
    }
    layer = Layer().add("f", b"1", pax_headers=given).add("d", kind=tarfile.DIRTYPE, pax_headers=given)
    root.apply(layer.tar())
    for name in ("f", "d"):
        assert sorted(os.listxattr(root.path / name)) == ["security.capability", "user.mine"]
    assert os.getxattr(root.path / "f", "security.capability") == capability


# what reaches for the outside


@pytest.mark.parametrize(
    "name", ["../victim", "a/../../victim", "/../victim", "../../../../../../etc/orlop-victim", ".."]
)
def test_names_outside_are_refused(root: Root, name: str) -> None:
    root.refuses(Layer().add(name, b"owned").tar(), "refused", "outside")


@pytest.mark.parametrize("target", ["/", "..", "../..", "/proc/self/root", "/proc/self/cwd/.."])
def test_links_are_followed_inside_only(root: Root, target: str) -> None:
    tar = Layer().add("way", kind=tarfile.SYMTYPE, link=target).add("way/victim", b"owned").tar()
    root.apply(tar)
    root.unharmed()


def test_chain_of_links_stays_inside(root: Root) -> None:
    tar = (
        Layer()
        .directory("a", "a/b")
        .add("a/b/up", kind=tarfile.SYMTYPE, link="../../../..")
        .add("two", kind=tarfile.SYMTYPE, link="a/b/up/..")
        .add("two/victim", b"owned")
        .tar()
    )
    root.apply(tar).unharmed()
    assert (root.path / "victim").read_bytes() == b"owned"


def test_link_to_a_directory_of_a_lower_layer_is_made(root: Root) -> None:
    root.apply(Layer().add("var/run", kind=tarfile.SYMTYPE, link="/run").add("var/run/pid", b"1").tar())
    assert (root.path / "run/pid").read_bytes() == b"1"
    assert sorted(root.implicit) == ["run", "var"]


def test_link_loops_are_refused(root: Root) -> None:
    tar = (
        Layer().add("a", kind=tarfile.SYMTYPE, link="b").add("b", kind=tarfile.SYMTYPE, link="a").add("a/x", b"1").tar()
    )
    root.refuses(tar, "refused", "symbolic links")


def test_files_replace_links_and_do_not_follow_them(root: Root) -> None:
    tar = Layer().add("f", kind=tarfile.SYMTYPE, link="../victim").add("f", b"mine").tar()
    root.apply(tar).unharmed()
    assert (root.path / "f").read_bytes() == b"mine" and not (root.path / "f").is_symlink()


def test_mode_of_a_link_is_not_its_targets(root: Root) -> None:
    root.apply(Layer().add("f", kind=tarfile.SYMTYPE, link=str(root.outside / "victim"), mode=0o777, uid=99).tar())
    assert (root.outside / "victim").stat().st_uid == 0


@pytest.mark.parametrize("target", ["../victim", "/../victim", "a/../../victim"])
def test_hard_links_outside_are_refused(root: Root, target: str) -> None:
    root.refuses(Layer().add("h", kind=tarfile.LNKTYPE, link=target).tar(), "refused", "outside")


def test_hard_links_through_links_stay_inside(root: Root) -> None:
    tar = Layer().add("way", kind=tarfile.SYMTYPE, link="/..").add("h", kind=tarfile.LNKTYPE, link="way/victim").tar()
    root.refuses(tar, "refused", "not in this layer")


def test_hard_link_to_a_link_links_the_link(root: Root) -> None:
    tar = (
        Layer()
        .add("l", kind=tarfile.SYMTYPE, link="../victim")
        .add("h", kind=tarfile.LNKTYPE, link="l")
        .add("h", b"x")
        .tar()
    )
    root.apply(tar).unharmed()


@pytest.mark.parametrize("target", ["missing", "no/such/file", "d", "."])
def test_hard_links_need_a_file(root: Root, target: str) -> None:
    root.refuses(
        Layer().directory("d").add("h", kind=tarfile.LNKTYPE, link=target).tar(), "refused", "hard link target"
    )


def test_hard_link_onto_itself_keeps_the_file(root: Root) -> None:
    root.apply(Layer().add("f", b"kept").add("f", kind=tarfile.LNKTYPE, link="f").tar())
    assert (root.path / "f").read_bytes() == b"kept"


def test_hard_link_into_what_it_replaces_is_an_error(root: Root) -> None:
    with pytest.raises(UnpackError):
        root.apply(Layer().directory("d").add("d/f", b"1").add("d", kind=tarfile.LNKTYPE, link="d/f").tar())
    root.unharmed()


def test_kinds_replace_each_other(root: Root) -> None:
    tar = (
        Layer()
        .directory("a", "a/deep", "a/deep/er")
        .add("a/deep/er/f", b"1")
        .add("a", kind=tarfile.SYMTYPE, link="b")
        .directory("b")
        .add("a/through", b"2")
        .directory("a")
        .add("a/direct", b"3")
        .tar()
    )
    root.apply(tar)
    assert (root.path / "b/through").read_bytes() == b"2"
    assert not (root.path / "a").is_symlink() and os.listdir(root.path / "a") == ["direct"]


def test_file_in_the_way_of_a_directory_is_refused(root: Root) -> None:
    root.refuses(Layer().add("f", b"1").add("f/x", b"2").tar(), "refused", "not a directory")


def test_root_entry_is_read_over(root: Root) -> None:
    before = root.lstat(".").st_mode
    root.apply(Layer().directory("./", mode=0o700).add("x").tar())
    assert root.lstat(".").st_mode == before
    root.refuses(Layer().add("./", kind=tarfile.SYMTYPE, link="/").tar(), "refused", "root")


# what breaks the format


def raw(name: str = "f", size: bytes = b"00000000000\0", kind: bytes = b"0", **patch: bytes) -> bytes:
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136] = size
    block[156:157] = kind
    for at, value in patch.items():
        offset = int(at.removeprefix("at"))
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


@pytest.mark.parametrize(
    ("tar", "kind"),
    [
        (raw(size=b"\xff" * 12) + END, "malformed"),  # negative
        (raw(size=b"\x80" + b"\x7f" * 11) + END, "malformed"),  # more than 63 bits
        (raw(size=b"\x80\0\0\0\x7f" + b"\xff" * 7) + END, "limit"),
        (raw(size=b"77777777777\0") + END, "limit"),
        (raw(size=b"0000000zzzz\0") + END, "malformed"),
        (raw(size=b"00000001000\0") + bytes(100), "malformed"),  # cut off data
        (raw()[:300], "malformed"),
        (raw(kind=b"Q") + END, "refused"),
        (raw(kind=b"D") + END, "refused"),
        (b"x" * 512 + END, "malformed"),
        (raw() + bytes(512) + raw() + END, "malformed"),  # entry after the end
        (raw(at108=b"\x80\0\0\x01\0\0\0\0") + END, "malformed"),  # uid 2**32
        (raw(at108=b"\xff" * 8) + END, "malformed"),  # uid -1
        (raw(kind=b"3", at329=b"\x80" + b"\x7f" * 7) + END, "malformed"),
        (raw(kind=b"x", size=b"00000001000\0") + b"9999999999999999999 path=x\n".ljust(512, b"\0") + END, "malformed"),
        (raw(kind=b"x", size=b"00000000013\0") + b"11 path=a\0b\n".ljust(512, b"\0") + END, "malformed"),
        (raw(kind=b"x", size=b"00000000020\0") + b"16 SCHILY.xattr.".ljust(512, b"\0") + END, "malformed"),
        (raw(kind=b"x", size=b"00000000011\0") + b"9 uid=-1\n".ljust(512, b"\0") + raw() + END, "malformed"),
        (raw(kind=b"x", size=b"77777777777\0") + END, "limit"),
        (raw(kind=b"L", size=b"00000000005\0") + b"name\0".ljust(512, b"\0"), "malformed"),  # nothing follows it
        (raw(kind=b"S", at386=b"00000000000\00077777777777\0", at483=b"00000000010\0") + END, "malformed"),
        (raw(kind=b"S", at386=b"00000000000\00000000000000\0", at483=b"77777777777\0") + END, "limit"),
        (raw(kind=b"2", at157=b"\0") + END, "malformed"),
    ],
)
def test_broken_archives_are_refused(root: Root, tar: bytes, kind: str) -> None:
    root.refuses(tar, kind)


def pax(**records: str) -> bytes:
    return tarfile.TarInfo._create_pax_generic_header(records, b"x", "utf-8")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("records", "data", "kind"),
    [
        ({"GNU.sparse.map": "0,1,2", "GNU.sparse.size": "10"}, b"", "malformed"),
        ({"GNU.sparse.map": "5,1,0,1", "GNU.sparse.size": "10"}, b"xx", "malformed"),
        ({"GNU.sparse.map": "0,9223372036854775807", "GNU.sparse.size": "10"}, b"", "malformed"),
        ({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}, b"x", "limit"),
        ({"GNU.sparse.numbytes": "1", "GNU.sparse.size": "10"}, b"", "malformed"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"}, b"1\n0\n", "malformed"),
        (
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
            b"99999999\n" + bytes(503),
            "limit",
        ),
        (
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
            b"1\n5\n20\n" + bytes(505) + b"x" * 20,
            "malformed",
        ),
        ({"GNU.sparse.major": "2", "GNU.sparse.minor": "0"}, b"", "malformed"),
        ({"size": "-1"}, b"", "malformed"),
        ({"mtime": "now"}, b"", "malformed"),
    ],
)
def test_broken_pax_headers_are_refused(root: Root, records: dict[str, str], data: bytes, kind: str) -> None:
    size = b"%011o\0" % len(data)
    root.refuses(pax(**records) + raw(size=size) + data.ljust(-len(data) % 512 + len(data), b"\0") + END, kind)


def test_limits_are_kept(root: Root) -> None:
    root.refuses(Layer().add("a").add("b").add("c").tar(), "limit", "entries", entries=2)
    root.refuses(Layer().add("p/q/r/s").tar(), "limit", "entries", entries=3)
    root.refuses(Layer().add("a", b"x" * 5000).tar(), "limit", "larger", stream_bytes=4096)
    root.refuses(Layer().add("x" * 300).tar(), "limit", "longer", path_bytes=200)
    root.refuses(Layer().add("x" * 300).tar(), "limit", "", pax_bytes=200)
    root.refuses(Layer().add("x" * 300).tar(), "limit", "too long")
    headers = {"SCHILY.xattr.user.x": "v" * 300}
    root.refuses(Layer().add("f", pax_headers=headers).tar(), "limit", "xattrs", xattr_bytes=200)


def test_zero_and_short_archives(root: Root) -> None:
    root.apply(b"")
    root.apply(bytes(512))
    root.apply(bytes(10240))
    root.apply(Layer().add("f", b"1").tar() + b"whatever follows the end")


def test_nothing_is_done_after_an_error(root: Root) -> None:
    fd = os.open(root.path, os.O_RDONLY)
    unpacker = Unpacker(fd, **LIMITS)
    with pytest.raises(UnpackError):
        unpacker.feed(raw(kind=b"Q"))
    with pytest.raises(UnpackError):
        unpacker.feed(raw())
    with pytest.raises(UnpackError):
        unpacker.finish()
    unpacker.close()
    with pytest.raises(ValueError, match="closed"):
        unpacker.feed(b"")
    os.close(fd)
    assert os.listdir(root.path) == []


def test_file_descriptors_do_not_leak(root: Root) -> None:
    before = len(os.listdir("/proc/self/fd"))
    layer = Layer()
    for at in range(200):
        layer.directory(f"d{at}").add(f"d{at}/f", b"1").add(
            f"d{at}/h", kind=tarfile.LNKTYPE, link=f"d{(at * 7) % (at + 1)}/f"
        )
    root.apply(layer.tar())
    assert len(os.listdir("/proc/self/fd")) == before


def test_remove_tree_goes_as_deep_as_there_is(root: Root) -> None:
    fd = os.open(root.path, os.O_RDONLY)
    at = os.dup(fd)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.symlink(root.outside, "way", dir_fd=at)
    os.close(at)
    remove_tree(fd, "d")
    assert os.listdir(root.path) == []
    root.unharmed()
    with pytest.raises(FileNotFoundError):
        remove_tree(fd, "d")
    os.close(fd)


def test_tarfile_streams_written_to_a_pipe_are_read(root: Root) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("x" * 150)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert (root.apply(buffer.getvalue()).path / ("x" * 150)).read_bytes() == b"abc"
