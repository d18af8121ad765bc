"""Users and groups from CRI, the image's USER, and files that the image's author wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument, OrlopError
from orlop.base.limits import PASSWD_BYTES, PASSWD_LINES
from orlop.services.containers.user import MAX_ID, ResolvedUser, resolve_user
from orlop.specs.pod import ContainerSecurity, GroupsPolicy

PASSWD = """\
# a comment
root:x:0:0:root:/root:/bin/sh
www-data:x:33:34:www:/var/www:/usr/sbin/nologin
app:x:1000:1000::/home/app:/bin/sh
bad:x:-1:0::/:
huge:x:4294967296:0::/:
short:x:5
+nis
"""
GROUP = """\
root:x:0:
staff:x:50:app,www-data
wheel:x:10:root
app:x:1000:
predefined:x:50000:app
"""

Resolve = Callable[..., ResolvedUser]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.fixture
def resolve(image: Path) -> Iterator[Resolve]:
    fd = os.open(image, os.O_PATH | os.O_DIRECTORY)

    def call(image_user: str = "", **security: Any) -> ResolvedUser:
        return resolve_user(fd, ContainerSecurity(**security), image_user)

    yield call
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "home"),
    [
        ("", 0, 0, "/root"),
        ("root", 0, 0, "/root"),
        ("www-data", 33, 34, "/var/www"),
        ("33", 33, 34, "/var/www"),
        ("33:7", 33, 7, "/var/www"),
        ("www-data:staff", 33, 50, "/var/www"),
        ("4242", 4242, 0, "/"),
        ("4242:4243", 4242, 4243, "/"),
        ("1000:", 1000, 1000, "/home/app"),
        (str(MAX_ID), MAX_ID, 0, "/"),
    ],
)
def test_the_images_user(resolve: Resolve, user: str, uid: int, gid: int, home: str) -> None:
    found = resolve(user)
    assert (found.uid, found.gid, found.home) == (uid, gid, home)
    assert gid in found.groups


@pytest.mark.parametrize(
    "user",
    ["4294967296", "2147483648:0", "0:2147483648", "-1", "1e3", "+5", "0x10", " 0", "9" * 400, "a:b:c", "nobody", "root:none",
     "root\n", "a/b", "٣", "²", "huge", "bad", "short", "+nis"],
)  # fmt: skip
def test_users_that_could_wrap_or_forge_are_refused(resolve: Resolve, user: str) -> None:
    with pytest.raises(InvalidArgument, match="image USER"):
        resolve(user)


def test_cri_wins_over_the_image(resolve: Resolve) -> None:
    assert resolve("root", run_as_user=1000).uid == 1000
    assert resolve("root", run_as_username="www-data").uid == 33
    found = resolve("root", run_as_user=1000, run_as_group=7)
    assert (found.uid, found.gid) == (1000, 7)
    assert resolve("root", run_as_username="app", run_as_group=7).gid == 7


def test_a_group_alone_is_refused(resolve: Resolve) -> None:
    with pytest.raises(InvalidArgument, match="run_as_group: given without run_as_user"):
        resolve("root", run_as_group=5)


@pytest.mark.parametrize("number", [-1, 2**31, 2**32])
def test_numbers_of_cri_have_a_range(resolve: Resolve, number: int) -> None:
    with pytest.raises(InvalidArgument, match="run_as_user: id"):
        resolve(run_as_user=number)
    with pytest.raises(InvalidArgument, match="run_as_group: id"):
        resolve(run_as_user=0, run_as_group=number)
    with pytest.raises(InvalidArgument, match="supplemental_groups: id"):
        resolve(supplemental_groups=(number,))


def test_supplemental_groups_are_merged_with_the_images_unless_strict(resolve: Resolve) -> None:
    merged = resolve("1000", supplemental_groups=(60000,))
    assert merged.groups == (50, 1000, 50000, 60000)
    strict = resolve("1000", supplemental_groups=(60000,), supplemental_groups_policy=GroupsPolicy.STRICT)
    assert strict.groups == (1000, 60000)
    assert resolve("4242").groups == (0,)
    assert resolve().groups == (0, 10)


def test_an_image_without_files_knows_numbers_only(image: Path, resolve: Resolve) -> None:
    (image / "etc/passwd").unlink()
    (image / "etc/group").unlink()
    assert resolve() == ResolvedUser()
    assert resolve("5:6").gid == 6
    with pytest.raises(InvalidArgument, match="user 'root' is not in the image's /etc/passwd"):
        resolve("root")


def spoil_fifo(path: Path) -> None:
    os.mkfifo(path)


def spoil_directory(path: Path) -> None:
    path.mkdir()


def spoil_link(path: Path) -> None:
    path.symlink_to("/proc/self/environ")


def spoil_size(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(PASSWD_BYTES + 1)


def spoil_lines(path: Path) -> None:
    path.write_text("\n" * (PASSWD_LINES + 1))


@pytest.mark.parametrize("spoil", [spoil_fifo, spoil_directory, spoil_link, spoil_size, spoil_lines])
@pytest.mark.timeout(20)
def test_what_is_no_small_regular_file_is_refused_and_does_not_hang(
    image: Path, resolve: Resolve, spoil: Callable[[Path], None]
) -> None:
    (image / "etc/passwd").unlink()
    spoil(image / "etc/passwd")
    with pytest.raises(InvalidArgument, match="image's /etc/passwd"):
        resolve("1000")


def test_a_linked_directory_stays_inside_the_image(image: Path, resolve: Resolve) -> None:
    (image / "etc").rename(image / "real")
    (image / "etc").symlink_to("/real")
    assert resolve("app").uid == 1000
    (image / "etc").unlink()
    # Followed on the host this would be the host's /etc, where root is.
    (image / "etc").symlink_to("../../../../../../../../proc/self/root/etc")
    with pytest.raises(InvalidArgument, match="user 'root' is not in"):
        resolve("root")


@given(st.text(max_size=30))
def test_any_user_text_gives_a_user_in_range_or_an_error(tmp_path_factory: pytest.TempPathFactory, user: str) -> None:
    fd = os.open(tmp_path_factory.getbasetemp(), os.O_PATH | os.O_DIRECTORY)
    try:
        found = resolve_user(fd, ContainerSecurity(), user)
    except OrlopError:
        return
    finally:
        os.close(fd)
    # Without /etc/passwd only plain decimal numbers are users.
    assert 0 <= found.uid <= MAX_ID
    assert found.uid == int(user.partition(":")[0] or "0")
