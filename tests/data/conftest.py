"""Fixtures of the data tests."""

from part_layouts import ood, seg  # noqa: F401  (fixtures)
