"""Optimizer and schedule, out of Detectron2's SOLVER keys and ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler, PolynomialDecayParamScheduler

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER on the parameters that are trained, with Detectron2's weight decay and clipping keys.

    Raises:
        ValueError: nothing of the model is trained, as of CLIPSeg with an empty MODEL.CLIPSEG.TRAIN.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"nothing of {type(model).__name__} is trained by this config: evaluate it, --eval-only")
    params = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    if cfg.SOLVER.WEIGHT_DECAY_EMBED is not None:
        params = set_embedding_decay(params, model, cfg.SOLVER.WEIGHT_DECAY_EMBED)
    rules: Any = getattr(model, "optimizer_rules", None)
    if rules is not None:
        usual = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
        params = apply_rules(params, rules(), usual)
    kind, clip = OPTIMIZERS[cfg.SOLVER.OPTIMIZER], cfg.SOLVER.CLIP_GRADIENTS
    whole_model = clip.ENABLED and clip.CLIP_TYPE == "full_model"
    clipped = clip_full_model(kind, clip.CLIP_VALUE) if whole_model else maybe_add_gradient_clipping(cfg, kind)
    momentum = {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV} if kind is torch.optim.SGD else {}
    return clipped(params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, **momentum)


def check_optimizer_state(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, path: str) -> None:
    """Requires the state of an optimizer of the same groups of parameters, of the same shapes.

    PyTorch takes tensors of any shape, and fails in the next step.

    Args:
        saved: of ``optimizer.state_dict()``.
        path: of the file that it is from.

    Raises:
        ValueError: names the file and the first difference.
    """
    own = optimizer.state_dict()
    counts = [[len(group["params"]) for group in state["param_groups"]] for state in (saved, own)]
    different = f"groups of {counts[0]} parameters instead of {counts[1]}" if counts[0] != counts[1] else None
    if different is None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, parameter in zip((n for group in saved["param_groups"] for n in group["params"]), parameters):
            for name, value in saved["state"].get(number, {}).items():
                # The count of steps is a number.
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                    shapes = f"{tuple(value.shape)} instead of {tuple(parameter.shape)}"
                    different = different or f"{name} of parameter {number} is {shapes}"
    if different:
        raise ValueError(
            f"{path}: the state of the optimizer does not fit: {different}. Continue with the configuration that the "
            "run was begun with, or begin another from its weights alone, MODEL.WEIGHTS"
        )


def build_poly_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """WarmupPolyLR: lr * (1 - t / T)^POLY_LR_POWER."""
    schedule: ParamScheduler = PolynomialDecayParamScheduler(1.0, cfg.SOLVER.POLY_LR_POWER)
    if cfg.SOLVER.WARMUP_ITERS:
        length = min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0)
        schedule = WarmupParamScheduler(schedule, cfg.SOLVER.WARMUP_FACTOR, length, cfg.SOLVER.WARMUP_METHOD)
    return LRMultiplier(optimizer, schedule, cfg.SOLVER.MAX_ITER)


def set_embedding_decay(
    groups: list[dict[str, Any]], model: torch.nn.Module, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups in which the weights of nn.Embedding have a group, and a weight decay, of their own."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    split = []
    for group in groups:
        for chosen in (False, True):
            members = [p for p in group["params"] if (id(p) in embeddings) == chosen]
            if members:
                split.append({**group, "params": members, **({"weight_decay": weight_decay} if chosen else {})})
    return split


def apply_rules(
    groups: list[dict[str, Any]],
    rules: Mapping[torch.nn.Parameter, Mapping[str, float]],
    usual: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Optimizer groups in which some parameters have factors of their own on learning rate and weight decay.

    Args:
        rules: factors by the name of a group's value, of those parameters that have any.
        usual: the optimizer's own values, where a group names none.
    """
    split: list[dict[str, Any]] = []
    for group in groups:
        by_rule: dict[tuple[tuple[str, float], ...], list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rule.setdefault(tuple(sorted(rules.get(parameter, {}).items())), []).append(parameter)
        for rule, members in by_rule.items():
            changed = {name: group.get(name, usual[name]) * factor for name, factor in rule}
            split.append({**group, "params": members, **changed})
    return split


def clip_full_model(kind: type[torch.optim.Optimizer], max_norm: float) -> Callable[..., torch.optim.Optimizer]:
    """A subclass of an optimizer whose step first scales all gradients together to at most ``max_norm``.

    Detectron2's own clipping looks at one tensor at a time.
    """

    class FullModelClipping(kind):  # type: ignore[valid-type, misc]
        def step(self, closure: Any = None) -> Any:
            parameters = [p for group in self.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            return super().step(closure)

    return FullModelClipping
