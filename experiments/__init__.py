"""Experiments: one file each, started as ``python -m experiments.<name>``."""
