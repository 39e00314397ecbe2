"""SAM's image encoder behind Detectron2's Backbone interface."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from segment_anything.modeling import ImageEncoderViT

from .fast_encoder import accelerate
from .sam import PATCH_SIZE, PROMPT_DIM, FrozenModule, build_sam, get_arch


@BACKBONE_REGISTRY.register()
class SAMImageEncoder(FrozenModule, Backbone):
    """Frozen image encoder: normalised images [B, 3, S, S] to ``{"image_embedding": [B, 256, S/16, S/16]}``.

    The embedding is float32, whatever the precision within. With MODEL.SAM.FEATURES cache there is no encoder in it:
    nothing is left to encode.
    """

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.arch, self.weights = cfg.MODEL.SAM.ARCH, cfg.MODEL.SAM.WEIGHTS
        self.precision: str = cfg.MODEL.SAM.PRECISION
        self.image_encoder: ImageEncoderViT | None = None
        if cfg.MODEL.SAM.FEATURES == "live":
            self.image_encoder = accelerate(self._build(), compiled=cfg.MODEL.SAM.COMPILE)
        self.freeze()

    def _build(self) -> ImageEncoderViT:
        return build_sam(self.arch, self.weights, components=("image_encoder",)).image_encoder

    def frozen_state(self) -> dict[str, torch.Tensor]:
        """The encoder's state dict; read again, for this once, where the encoder is not kept."""
        encoder = self._build() if self.image_encoder is None else self.image_encoder
        return encoder.state_dict(prefix="image_encoder.")

    @property
    def image_size(self) -> int:
        """S, the side of the square input in pixels."""
        return get_arch(self.arch).image_size

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
        if self.image_encoder is None:
            raise ValueError(
                "MODEL.SAM.FEATURES is 'cache': no encoder was built, and this input has no image_embedding; "
                "set MODEL.SAM.FEATURES live for pictures that are in no cache"
            )
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"SAM's image encoder takes [B, 3, {self.image_size}, {self.image_size}], got {tuple(images.shape)}"
            )
        # Not the trained part's mixed precision: the embeddings must be the same in training, inference and a cache.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return {"image_embedding": self.image_encoder(images.float())}
