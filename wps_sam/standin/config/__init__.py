"""Configuration: ``CfgNode``, the default keys, and building classes from a config."""

from .config import CfgNode, configurable, get_cfg

__all__ = ["CfgNode", "configurable", "get_cfg"]
