"""Configuration: ``CfgNode``, the default keys, and building classes from a config."""
# ruff: noqa: F401  (the public names)

from .config import CfgNode, configurable, get_cfg
