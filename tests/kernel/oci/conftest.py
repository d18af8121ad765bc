"""The boxes of the executor's tests: each test leaves no mount and no process behind."""

from tests.kernel.executor.conftest import box, own_mounts, subreaper

__all__ = ["box", "own_mounts", "subreaper"]
