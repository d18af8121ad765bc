import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument
from orlop.oci.cgroups.parent import absolute_path, cgroupfs_parent, check_name, slice_path


def test_parents_as_kubelet_gives_them() -> None:
    assert cgroupfs_parent("", "/orlop") == "/orlop"
    assert cgroupfs_parent("/kubepods/burstable/pod1-2", "/orlop") == "/kubepods/burstable/pod1-2"
    assert cgroupfs_parent("//kubepods///pod1/", "/orlop") == "/kubepods/pod1"
    assert cgroupfs_parent("/system.slice", "/orlop") == "/system.slice"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kubepods-burstable-pod1.slice", "systemd slice"),
        ("kubepods/pod1", "not an absolute path"),
        ("/kubepods/../..", "not allowed"),
        ("/a/./b", "not allowed"),
        ("/a\nb", "control character"),
        ("/a\0b", "control character"),
        ("/" + "a" * 256, "longer than 255"),
        ("/a" * 2000, "longer than 2048"),
    ],
)
def test_hostile_and_wrong_parents(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        cgroupfs_parent(text, "/orlop")


def test_slices() -> None:
    assert slice_path("-.slice") == "/"
    assert slice_path("test.slice") == "/test.slice"
    assert (
        slice_path("kubepods-burstable-pod1_2.slice")
        == "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"
    )
    for wrong in ("a.scope", "a--b.slice", "-a.slice", "a/b.slice", ".slice", "a\n.slice"):
        with pytest.raises(InvalidArgument):
            slice_path(wrong)


@given(st.text())
def test_an_accepted_path_stays_below_the_mount(text: str) -> None:
    try:
        path = absolute_path(text, "x")
    except InvalidArgument:
        return
    parts = path.split("/")
    assert path.startswith("/")
    assert ".." not in parts
    assert "." not in parts
    assert "\n" not in path
    assert "\0" not in path


@given(st.text())
def test_an_accepted_name_is_one_component(text: str) -> None:
    try:
        name = check_name(text, "x")
    except InvalidArgument:
        return
    assert "/" not in name
    assert name[0] not in ".-"
    assert name.isascii()
