"""Optimiser and schedule of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler
from torch import nn

from ..config import CfgNode
from .lr_scheduler import LRMultiplier, WarmupParamScheduler

_NORM_TYPES = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Returns a subclass of an optimiser class that clips before each step, if SOLVER.CLIP_GRADIENTS says so.

    Each parameter is clipped by itself: its values (``value``) or its norm (``norm``).
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE={clip.CLIP_TYPE!r}: expected value or norm")

    def step(self: torch.optim.Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if clip.CLIP_TYPE == "value":
                nn.utils.clip_grad_value_(parameter, clip.CLIP_VALUE)
            else:
                nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
        return super(clipping, self).step(closure)

    clipping: Any = type(f"{optimizer.__name__}WithGradientClip", (optimizer,), {"step": step})
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
    sgd: Any = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    keys = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV, "weight_decay": solver.WEIGHT_DECAY}
    return sgd(params, solver.BASE_LR, foreach=True, **keys)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
) -> list[dict[str, Any]]:
    """Groups the trainable parameters by their learning rate and weight decay.

    None leaves a value to the optimiser's default. Parameters of normalisation layers have
    ``weight_decay_norm``, those named "bias" ``weight_decay_bias`` and ``bias_lr_factor * base_lr``. Groups come
    in the order of their first parameter, so that optimiser states are exchangeable.
    """
    if bias_lr_factor not in (None, 1.0) and base_lr is None:
        raise ValueError("bias_lr_factor needs base_lr")
    groups: dict[tuple, dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # A shared parameter is optimised once.
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr, decay = base_lr, weight_decay
            if isinstance(module, _NORM_TYPES) and weight_decay_norm is not None:
                decay = weight_decay_norm
            if name == "bias":
                lr = lr if lr is None or bias_lr_factor is None else lr * bias_lr_factor
                decay = decay if weight_decay_bias is None else weight_decay_bias
            values = {key: value for key, value in (("lr", lr), ("weight_decay", decay)) if value is not None}
            groups.setdefault((lr, decay), {"params": [], **values})["params"].append(parameter)
    return list(groups.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """The schedule ``SOLVER.LR_SCHEDULER_NAME``: WarmupMultiStepLR or WarmupCosineLR."""
    solver = cfg.SOLVER
    schedule: ParamScheduler
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        schedule = MultiStepParamScheduler(values=values, milestones=steps, num_updates=solver.MAX_ITER)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule = CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    else:
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME={solver.LR_SCHEDULER_NAME!r}: expected WarmupMultiStepLR or WarmupCosineLR"
        )
    length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    warmed = WarmupParamScheduler(schedule, solver.WARMUP_FACTOR, length, solver.WARMUP_METHOD, solver.RESCALE_INTERVAL)
    return LRMultiplier(optimizer, multiplier=warmed, max_iter=solver.MAX_ITER)
