"""``Registry``: fvcore's."""

from fvcore.common.registry import Registry

__all__ = ["Registry"]
