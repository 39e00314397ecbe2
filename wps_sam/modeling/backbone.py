"""SAM's image encoder behind Detectron2's Backbone interface."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from segment_anything.modeling import ImageEncoderViT

from .sam import PATCH_SIZE, PROMPT_DIM, FrozenModule, build_sam


@BACKBONE_REGISTRY.register()
class SAMImageEncoder(FrozenModule, Backbone):
    """Frozen image encoder: normalised images [B, 3, S, S] to ``{"image_embedding": [B, 256, S/16, S/16]}``."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        sam = build_sam(cfg.MODEL.SAM.ARCH, cfg.MODEL.SAM.WEIGHTS, components=("image_encoder",))
        self.image_encoder: ImageEncoderViT = sam.image_encoder
        self.freeze()

    @property
    def image_size(self) -> int:
        """S, the side of the square input in pixels."""
        return self.image_encoder.img_size

    @property
    def size_divisibility(self) -> int:
        return PATCH_SIZE

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self.image_size}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"image_embedding": ShapeSpec(channels=PROMPT_DIM, stride=PATCH_SIZE)}

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """See the class; a ValueError tells of images of another size."""
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"SAM's image encoder takes [B, 3, {self.image_size}, {self.image_size}], got {tuple(images.shape)}"
            )
        return {"image_embedding": self.image_encoder(images)}
