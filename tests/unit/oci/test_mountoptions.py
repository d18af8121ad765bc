"""Words of mount(8) as flags of mount_setattr(2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.oci import kernelnames as k
from orlop.oci.mountoptions import KNOWN, parse_options, parse_propagation

ATIME_MODES = (0, k.ATTR_NOATIME, k.ATTR_STRICTATIME)


def test_each_kind_of_word_goes_to_its_place() -> None:
    parsed = parse_options(("rbind", "ro", "rnoexec", "rslave", "sync", "mode=755", "defaults", "tmpcopyup", "ridmap"))
    assert (parsed.bind, parsed.recursive_bind, parsed.copy_up) == (True, True, True)
    assert (parsed.attr_set, parsed.recursive_attr_set) == (k.ATTR_RDONLY, k.ATTR_NOEXEC)
    assert parsed.propagation == k.MS_SLAVE | k.MS_REC
    assert (parsed.superblock, parsed.data) == (("sync",), ("mode=755",))
    assert (parsed.idmap, parsed.recursive_idmap, parsed.remount) == (True, True, False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ro", "rw"), (0, k.ATTR_RDONLY)),
        (("rw", "ro"), (k.ATTR_RDONLY, 0)),
        (("nosuid", "suid", "nosuid"), (k.ATTR_NOSUID, 0)),
        (("noatime",), (k.ATTR_NOATIME, k.ATTR_ATIME)),
        (("noatime", "strictatime"), (k.ATTR_STRICTATIME, k.ATTR_ATIME)),
        (("strictatime", "relatime"), (0, k.ATTR_ATIME)),
    ],
)
def test_the_last_word_wins(words: tuple[str, ...], expected: tuple[int, int]) -> None:
    parsed = parse_options(words)
    assert (parsed.attr_set, parsed.attr_clr) == expected


@given(st.lists(st.sampled_from(KNOWN)).map(tuple))
def test_any_words_make_flags_that_the_kernel_takes(words: tuple[str, ...]) -> None:
    parsed = parse_options(words)
    for to_set, to_clear in (
        (parsed.attr_set, parsed.attr_clr),
        (parsed.recursive_attr_set, parsed.recursive_attr_clr),
    ):
        # mount_setattr(2): the access time is one field; touching it means clearing it whole, and it holds one mode.
        assert to_set & k.ATTR_ATIME in ATIME_MODES
        assert to_clear & k.ATTR_ATIME in (0, k.ATTR_ATIME)
        if to_set & k.ATTR_ATIME:
            assert to_clear & k.ATTR_ATIME
        assert not to_set & to_clear & ~k.ATTR_ATIME
    assert parsed.data == ()


def test_propagation_of_the_root() -> None:
    assert parse_propagation("") == 0
    assert parse_propagation("shared") == k.MS_SHARED
    assert parse_propagation("rslave") == k.MS_SLAVE | k.MS_REC
    assert parse_propagation("everywhere") is None
