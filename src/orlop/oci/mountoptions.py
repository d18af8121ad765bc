"""Mount options of the runtime spec (mount(8)'s words, and the recursive ones) as kernel flags.

Owns the table of words. Never looks at a mount's source or target. Test: tests/unit/oci/test_mountoptions.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from orlop.oci.kernelnames import (
    ATTR_ATIME,
    ATTR_NOATIME,
    ATTR_NODEV,
    ATTR_NODIRATIME,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_NOSYMFOLLOW,
    ATTR_RDONLY,
    ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

# word -> (attributes to set, attributes to clear). The three access time modes are one field of the kernel: it is cleared whole.
_ATTRS: Final[dict[str, tuple[int, int]]] = {
    "ro": (ATTR_RDONLY, 0),
    "rw": (0, ATTR_RDONLY),
    "nosuid": (ATTR_NOSUID, 0),
    "suid": (0, ATTR_NOSUID),
    "nodev": (ATTR_NODEV, 0),
    "dev": (0, ATTR_NODEV),
    "noexec": (ATTR_NOEXEC, 0),
    "exec": (0, ATTR_NOEXEC),
    "nodiratime": (ATTR_NODIRATIME, 0),
    "diratime": (0, ATTR_NODIRATIME),
    "relatime": (0, ATTR_ATIME),
    "norelatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "noatime": (ATTR_NOATIME, ATTR_ATIME),
    "atime": (0, ATTR_ATIME),
    "strictatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "nostrictatime": (0, ATTR_ATIME),
    "nosymfollow": (ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, ATTR_NOSYMFOLLOW),
}
_PROPAGATION: Final[dict[str, int]] = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
# Flags of a superblock: they go to the filesystem with its own options; a bind mount cannot change them, and mount(8) ignores them there.
_SUPERBLOCK: Final = frozenset(
    {"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "iversion", "noiversion"}
)
# Words that mean nothing to a mount made by fd.
_IGNORED: Final = frozenset({"defaults", "silent", "loud", "acl", "noacl"})

KNOWN: Final[tuple[str, ...]] = tuple(
    sorted(
        {
            *_ATTRS,
            *("r" + word for word in _ATTRS),
            *_PROPAGATION,
            *_SUPERBLOCK,
            *_IGNORED,
            "bind",
            "rbind",
            "remount",
            "tmpcopyup",
            "idmap",
            "ridmap",
        }
    )
)
"""What ``features`` reports; every other word is an option of the filesystem."""


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A mount's options, sorted by who acts on them."""

    bind: bool = False
    recursive_bind: bool = False
    remount: bool = False
    attr_set: int = 0
    attr_clr: int = 0
    recursive_attr_set: int = 0
    recursive_attr_clr: int = 0
    propagation: int = 0
    """MS_* with MS_REC; 0: none was asked for."""
    copy_up: bool = False
    idmap: bool = False
    recursive_idmap: bool = False
    superblock: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    """Options of the filesystem itself."""


@lru_cache(maxsize=1024)
def parse_options(options: tuple[str, ...]) -> MountOptions:
    """Sort options; a later word wins over an earlier one of the same attribute. Cached: a node's containers use a few dozen lists."""
    bind = recursive_bind = remount = copy_up = idmap = recursive_idmap = False
    attrs = [0, 0]
    recursive_attrs = [0, 0]
    propagation = 0
    superblock: list[str] = []
    data: list[str] = []
    for word in options:
        if word in _ATTRS:
            _apply(attrs, _ATTRS[word])
        elif word in _PROPAGATION:
            propagation = _PROPAGATION[word]
        elif word == "bind":
            bind = True
        elif word == "rbind":
            bind = recursive_bind = True
        elif word == "remount":
            remount = True
        elif word == "tmpcopyup":
            copy_up = True
        elif word == "idmap":
            idmap = True
        elif word == "ridmap":
            idmap = recursive_idmap = True
        elif word in _SUPERBLOCK:
            superblock.append(word)
        elif word in _IGNORED:
            continue
        elif word[:1] == "r" and word[1:] in _ATTRS:
            _apply(recursive_attrs, _ATTRS[word[1:]])
        else:
            data.append(word)
    return MountOptions(
        bind=bind,
        recursive_bind=recursive_bind,
        remount=remount,
        attr_set=attrs[0],
        attr_clr=attrs[1],
        recursive_attr_set=recursive_attrs[0],
        recursive_attr_clr=recursive_attrs[1],
        propagation=propagation,
        copy_up=copy_up,
        idmap=idmap,
        recursive_idmap=recursive_idmap,
        superblock=tuple(superblock),
        data=tuple(data),
    )


def _apply(attrs: list[int], change: tuple[int, int]) -> None:
    """mount_setattr(2) clears, then sets; so a word drops what an earlier word set in the same bits."""
    to_set, to_clear = change
    touched = to_set | to_clear
    attrs[0] = attrs[0] & ~touched | to_set
    # Within the access time field the kernel demands that all of it is cleared when any of it is set.
    attrs[1] = attrs[1] & ~(to_set & ~ATTR_ATIME) | to_clear


@lru_cache(maxsize=16)
def parse_propagation(word: str) -> int | None:
    """Return MS_* for linux.rootfsPropagation: ``private`` .. ``runbindable``, 0 for the empty string, None for an unknown word.

    runc and containerd treat the root's propagation as recursive with the r-words only, as for mounts.
    """
    return 0 if not word else _PROPAGATION.get(word)
