"""The native unpacker: tar bytes in, the directory of one layer out; and removal of whole trees.

What it promises is written in native/unpack.h.

``UnpackError.args`` is (kind, errno, entry, reason); kind is "malformed", "refused", "limit" or "system". No policy, no
logging. Test: tests/kernel/layers/test_unpack.py.
"""

from orlop.kernel._unpack import Unpacker, UnpackError, own_umask, remove_tree

__all__ = ["UnpackError", "Unpacker", "own_umask", "remove_tree"]
