"""Mask2Former (arXiv 2112.01527), the segmenter that both image-level methods train on their seeds: their stage II."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.build_sam import RANDOM_WEIGHTS_SEED
from ..encoders.clip import import_transformers
from .mask_labels import label_masks

logger = logging.getLogger(__name__)

# Sides of what the network sees are multiples of it.
STRIDE = 32
STAGES = ["stage1", "stage2", "stage3", "stage4"]
# Backbones: what differs from the defaults of transformers' SwinConfig. FMA-WSSS and SemPLeS: swin_large, trained on
# ImageNet-22k at 384 pixels.
ARCHS: dict[str, dict[str, Any]] = {
    "swin_large": {
        "image_size": 384,
        "embed_dim": 192,
        "depths": [2, 2, 18, 2],
        "num_heads": [6, 12, 24, 48],
        "window_size": 12,
        "drop_path_rate": 0.3,
    },
    "tiny": {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4},
}
# The rest of the network where it is not as published, for tests.
SMALL_HEAD = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "num_attention_heads": 4,
}


@META_ARCH_REGISTRY.register()
class Mask2Former(nn.Module):
    """transformers' Mask2Former for semantic segmentation, background a class like the others.

    Its losses are its own: classes 2 (no object 0.1), masks 5, dice 5, of 12,544 points each, in every layer.

    Args:
        network: transformers' Mask2FormerForUniversalSegmentation with C + 1 labels.
        num_classes: C; background is label C.
        backbone_multiplier: of the learning rate of the backbone.
        pixel_mean, pixel_std: of RGB in 0..255.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        network: Any,
        num_classes: int,
        backbone_multiplier: float,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.backbone_multiplier = backbone_multiplier
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.MASK2FORMER
        return {
            "network": build_mask2former(
                node.ARCH, node.BACKBONE_WEIGHTS, cfg.MODEL.PROMPTER.NUM_CLASSES, node.NUM_QUERIES
            ),
            "num_classes": cfg.MODEL.PROMPTER.NUM_CLASSES,
            "backbone_multiplier": node.BACKBONE_MULTIPLIER,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def optimizer_rules(self) -> dict[nn.Parameter, dict[str, float]]:
        """Factors of the learning rate, "lr", and of the weight decay, of parameters that are not as the others."""
        rules: dict[nn.Parameter, dict[str, float]] = {}
        for name, parameter in self.network.named_parameters():
            rule = {}
            if ".pixel_level_module.encoder." in name:
                rule["lr"] = self.backbone_multiplier
            if "relative_position_bias_table" in name or "level_embed" in name or "queries_" in name:
                rule["weight_decay"] = 0.0
            if rule:
                rules[parameter] = rule
        return rules

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The loss in training, scores otherwise.

        Args:
            batched_inputs: per image a dict with "image", uint8 RGB [3, h, w]; in training "sem_seg" int64 [h, w] of
                0..C, and "ignore_label"; at inference optionally "height" and "width", the size of the results (else
                h, w).

        Returns:
            In training ``{"loss_mask2former"}``; otherwise per image {"sem_seg": float [C+1, H, W]}: of every class the
            sum over queries of its probability times that of their mask.
        """
        images = self.preprocess_image(batched_inputs)
        if self.training:
            masks, classes = self.label(batched_inputs, images.shape[-2:])
            output = self.network(pixel_values=images, mask_labels=masks, class_labels=classes)
            return {"loss_mask2former": output.loss.squeeze()}
        output = self.network(pixel_values=images)
        return [
            {"sem_seg": self.semantic_inference(classes, masks, record, images.shape[-2:])}
            for classes, masks, record in zip(output.class_queries_logits, output.masks_queries_logits, batched_inputs)
        ]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Normalised images [B, 3, H, W], padded at the right and below."""
        device = self.pixel_mean.device
        normalised = [
            (record["image"].to(device).float() - self.pixel_mean) / self.pixel_std for record in batched_inputs
        ]
        return ImageList.from_tensors(normalised, STRIDE).tensor

    def label(self, batched_inputs: list[dict[str, Any]], size: torch.Size) -> tuple[list[Tensor], list[Tensor]]:
        """Of each picture a mask float [n, H, W] for each label that occurs, and int64 [n], which."""
        return label_masks(batched_inputs, self.num_classes + 1, size, self.pixel_mean.device)

    def semantic_inference(self, classes: Tensor, masks: Tensor, record: dict[str, Any], size: torch.Size) -> Tensor:
        """Of one picture: class logits [Q, C+2] and mask logits [Q, h, w] to scores float [C+1, H, W]."""
        height, width = record["image"].shape[-2:]
        large = F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0, :, :height, :width]
        scores = torch.einsum("qc,qhw->chw", classes.softmax(-1)[:, :-1], large.sigmoid())
        out = (record.get("height", height), record.get("width", width))
        return F.interpolate(scores[None], out, mode="bilinear", align_corners=False)[0]


def build_mask2former(arch: str, backbone_weights: str, num_classes: int, num_queries: int) -> Any:
    """transformers' Mask2FormerForUniversalSegmentation, C + 1 labels, random but for its backbone.

    Args:
        arch: a key of :data:`ARCHS`.
        backbone_weights: a Swin of Hugging Face, name or folder, such as
            microsoft/swin-large-patch4-window12-384-in22k; "": random ones from a fixed seed.

    Raises:
        ImportError: transformers is not installed.
        ValueError: the weights are missing, or of another Swin.
    """
    transformers = import_transformers("MODEL.META_ARCHITECTURE Mask2Former")
    backbone = transformers.SwinConfig(**ARCHS[arch], out_features=STAGES)
    more = SMALL_HEAD if arch == "tiny" else {}
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, num_queries=num_queries, num_labels=num_classes + 1, **more
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        network = transformers.Mask2FormerForUniversalSegmentation(config)
    # The last norm of a Swin that classifies: nobody reads it here, and several processes would wait for its gradient.
    network.model.pixel_level_module.encoder.swin.layernorm.requires_grad_(False)
    if not backbone_weights:
        logger.warning("MODEL.MASK2FORMER.BACKBONE_WEIGHTS is empty: the backbone starts from random weights")
        return network
    try:
        trained, report = transformers.SwinBackbone.from_pretrained(
            backbone_weights, out_features=STAGES, dtype=torch.float32, output_loading_info=True
        )
        # Norms of the stages' outputs are new.
        missing = [key for key in report["missing_keys"] if not key.startswith("hidden_states_norms")]
        if missing:
            raise ValueError(f"lacks {missing[:3]}")
        network.model.pixel_level_module.encoder.load_state_dict(trained.state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"MODEL.MASK2FORMER.BACKBONE_WEIGHTS {backbone_weights}: no {arch}: {error}") from error
    return network
