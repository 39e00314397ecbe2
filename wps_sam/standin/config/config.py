"""``CfgNode`` on top of fvcore's, and ``configurable``."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode

from ..utils.file_io import PathManager

# Detectron2's own keys for models that are not ours. A config.yaml written under Detectron2 has them
# all; read here, they are dropped.
_FOREIGN_KEYS = {
    "MODEL": "LOAD_PROPOSALS FPN PROPOSAL_GENERATOR ANCHOR_GENERATOR RPN ROI_HEADS ROI_BOX_HEAD ROI_BOX_CASCADE_HEAD "
    "ROI_MASK_HEAD ROI_KEYPOINT_HEAD SEM_SEG_HEAD PANOPTIC_FPN RETINANET RESNETS",
    "DATASETS": "PROPOSAL_FILES_TRAIN PRECOMPUTED_PROPOSAL_TOPK_TRAIN PROPOSAL_FILES_TEST "
    "PRECOMPUTED_PROPOSAL_TOPK_TEST",
    "DATALOADER": "REPEAT_THRESHOLD REPEAT_SQRT",
    "TEST": "KEYPOINT_OKS_SIGMAS AUG PRECISE_BN",
}


class CfgNode(_CfgNode):
    """fvcore's ``CfgNode`` (``_BASE_`` files, frozen trees, overrides from a list) with a version.

    Unlike Detectron2, files are read with safe YAML unless ``allow_unsafe`` asks otherwise.
    """

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merges a YAML file, its ``_BASE_`` files first.

        Raises:
            ValueError: there is no such file, or it is of another config version.
            KeyError: a key that neither we nor Detectron2 have.
        """
        if not PathManager.isfile(cfg_filename):
            raise ValueError(f"config file {cfg_filename!r} does not exist")
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        if loaded.get("VERSION", self.VERSION) != self.VERSION:
            raise ValueError(f"{cfg_filename}: config VERSION is {loaded.VERSION}, expected {self.VERSION}")
        for section, names in _FOREIGN_KEYS.items():
            for key in names.split():
                if key in (loaded.get(section) or {}) and key not in self[section]:
                    del loaded[section][key]
                    logging.getLogger(__name__).debug("%s: %s.%s is not used here", cfg_filename, section, key)
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    """Returns a copy of the default config: Detectron2's names and defaults, the keys that we use."""
    from .defaults import _C

    return _C.clone()


def _explicit(from_config: Callable[..., dict[str, Any]], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What ``from_config`` makes of a cfg, with the arguments that it does not take itself laid over it."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"the first argument of {from_config.__qualname__} must be 'cfg'")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    own = {name: kwargs.pop(name) for name in list(kwargs) if name in parameters}
    return {**from_config(*args, **own), **kwargs}


def configurable(
    init_func: Callable | None = None, *, from_config: Callable[..., dict[str, Any]] | None = None
) -> Callable:
    """Lets an ``__init__`` or a function be called with a cfg or with explicit arguments.

    On an ``__init__``, the class has a classmethod ``from_config(cls, cfg, ...)`` that returns the
    explicit arguments; for a function, ``from_config`` is given to the decorator. The call is taken as
    one with a cfg if the first argument, or the one named ``cfg``, is a ``CfgNode``.
    """

    def has_cfg(args: tuple, kwargs: dict[str, Any]) -> bool:
        return isinstance(args[0] if args else kwargs.get("cfg"), _CfgNode)

    if init_func is not None:
        if not inspect.isfunction(init_func) or init_func.__name__ != "__init__" or from_config is not None:
            raise TypeError("@configurable without arguments decorates an __init__ only")

        @functools.wraps(init_func)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            if not has_cfg(args, kwargs):
                return init_func(self, *args, **kwargs)
            if not inspect.ismethod(getattr(type(self), "from_config", None)):
                raise TypeError(f"{type(self).__name__} needs a classmethod from_config to be built from a cfg")
            init_func(self, **_explicit(type(self).from_config, args, kwargs))

        return init

    if from_config is None:
        return configurable

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (
                function(**_explicit(from_config, args, kwargs)) if has_cfg(args, kwargs) else function(*args, **kwargs)
            )

        return call

    return decorate
