"""Meta-architectures: whole models, from a list of dicts to losses or predictions."""

from .build import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "build_model"]
