"""orlop: a container runtime. Python decides, C does; see docs/architecture.md."""

__version__ = "0.1.0"
