import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.mountinfo import device_of, find_device, find_mount_point

MOUNTS = """25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 25 0:24 / /run rw - tmpfs tmpfs rw,size=10k
31 25 8:1 /var /mnt rw - ext4 /dev/again rw
broken line
"""


def test_the_first_mount_of_a_device_names_it():
    assert find_device(MOUNTS, "8:1") == "/dev/sda1"
    assert find_device(MOUNTS, "0:24") == "tmpfs"
    assert find_device(MOUNTS, "9:9") == "9:9"


def test_this_host(tmp_path):
    name, number = device_of(str(tmp_path))
    assert name
    major, minor = number.split(":")
    assert os.makedev(int(major), int(minor)) == tmp_path.stat().st_dev


@given(st.text(alphabet="0123456789: -/abc\n"))
def test_any_text_is_taken(text):
    assert find_device(text, "8:1")
    assert find_mount_point(text, "/a").startswith("/")


POINTS = """\
27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 0:5 / /run rw shared:2 - tmpfs tmpfs rw
31 30 0:6 / /run/a\\040b rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/", "/"),
        ("/var", "/"),
        ("/run", "/run"),
        ("/run/orlop", "/run"),
        ("/running", "/"),
        ("/run/a b/c", "/run/a b"),
    ],
)
def test_a_path_lies_on_the_longest_mount_point(path: str, point: str) -> None:
    assert find_mount_point(POINTS, path) == point
