"""Optimiser and schedule of a config."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler
from torch import nn

from ..config import CfgNode
from .lr_scheduler import LRMultiplier, WarmupParamScheduler

_NORM_TYPES = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer]
) -> type[torch.optim.Optimizer]:
    """Returns a subclass of an optimiser class that clips before each step, if SOLVER.CLIP_GRADIENTS says so.

    Each parameter is clipped by itself: its values (``value``) or its norm (``norm``).
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    limit, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE={clip.CLIP_TYPE!r}: expected value or norm")

    def step(self: torch.optim.Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if clip.CLIP_TYPE == "value":
                    nn.utils.clip_grad_value_(parameter, limit)
                else:
                    nn.utils.clip_grad_norm_(parameter, limit, norm_type)
        return super(clipping, self).step(closure)

    clipping = type(f"{optimizer.__name__}WithGradientClip", (optimizer,), {"step": step})
    return clipping


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD over ``get_default_optimizer_params``."""
    solver = cfg.SOLVER
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
        params,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Groups the trainable parameters by their learning rate and weight decay.

    None leaves a value to the optimiser's default. Parameters of normalisation layers have
    ``weight_decay_norm``, those named "bias" ``weight_decay_bias`` and ``bias_lr_factor * base_lr``;
    ``lr_factor_func`` maps a full parameter name to a factor; ``overrides`` maps a last name
    to values, and wins. Groups come in the order of their first parameter, so that optimiser states are
    exchangeable.
    """
    defaults: dict[str, Any] = {}
    if base_lr is not None:
        defaults["lr"] = base_lr
    if weight_decay is not None:
        defaults["weight_decay"] = weight_decay
    by_name = dict(overrides or {})
    for_bias: dict[str, Any] = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor needs base_lr")
        for_bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        for_bias["weight_decay"] = weight_decay_bias
    if for_bias:
        if "bias" in by_name:
            raise ValueError("overrides for 'bias' contradict bias_lr_factor or weight_decay_bias")
        by_name["bias"] = for_bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr")

    groups: dict[tuple, dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            # A shared parameter is optimised once.
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            values = dict(defaults)
            if isinstance(module, _NORM_TYPES) and weight_decay_norm is not None:
                values["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                values["lr"] *= lr_factor_func(f"{module_name}.{name}")
            values.update(by_name.get(name, {}))
            group = groups.setdefault(tuple(sorted(values.items())), {"params": [], **values})
            group["params"].append(parameter)
    return list(groups.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """The schedule ``SOLVER.LR_SCHEDULER_NAME``: WarmupMultiStepLR or WarmupCosineLR."""
    solver = cfg.SOLVER
    schedule: ParamScheduler
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        if len(steps) != len(solver.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS beyond SOLVER.MAX_ITER are not used: %s", solver.STEPS
            )
        schedule = MultiStepParamScheduler(
            values=[solver.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        )
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule = CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    else:
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME={solver.LR_SCHEDULER_NAME!r}: expected WarmupMultiStepLR or WarmupCosineLR"
        )
    warmed = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=warmed, max_iter=solver.MAX_ITER)
