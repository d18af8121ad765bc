"""/sys/dev/block (sysfs(5)): the names of block devices. Test: tests/unit/kernel/test_sysblock.py."""

from __future__ import annotations

import os


def block_device(number: str, directory: str = "/sys/dev/block") -> str:
    """Return the path under /dev of the block device ``major:minor``; the number itself for one that is gone or is none."""
    try:
        target = os.readlink(f"{directory}/{number}")
    except OSError:
        return number  # anonymous (an overlay, a tmpfs), or pulled out meanwhile
    # Devices in subdirectories of /dev have a "!" for each slash: cciss!c0d0.
    return f"/dev/{os.path.basename(target).replace('!', '/')}"
