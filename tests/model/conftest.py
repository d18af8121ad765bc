"""The registry fixture of tests/cri/harness.py for this folder."""

from tests.cri.harness import registry

__all__ = ["registry"]
