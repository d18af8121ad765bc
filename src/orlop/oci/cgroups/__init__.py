"""Cgroups of pods and containers: pure decisions (resources.py, parent.py) and one thin driver for each version of the interface."""
