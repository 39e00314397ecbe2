"""SAM of the ``segment_anything`` package, and MobileSAM, as a promptable encoder (Kirillov et al., ICCV 2023)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor

from ..structures import Frame
from .build_sam import PATCH_SIZE, PROMPT_DIM, build_sam, get_arch, image_encoder_hash
from .fast_encoder import ImageEncoder, accelerate
from .frozen import hash_tensors
from .mask_decoder import predict_masks
from .promptable import (
    EncoderSpec,
    MaskPredictions,
    PromptableEncoder,
    ResizeLongestSide,
    check_columns,
    check_levels,
    one_click_a_prompt,
    pad,
    padded_frame,
)

logger = logging.getLogger(__name__)

# To be raised when the same weights and settings give other features, prompts or masks than before: feature caches
# and prompters of the older code are then refused.
VERSION = 1
# A box is its two corners; a point is itself and SAM's padding, "not a point".
TOKENS_PER_PROMPT = 2
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@BACKBONE_REGISTRY.register()
class SAMEncoder(PromptableEncoder):
    """SAM's image encoder, prompt encoder and mask decoder, frozen; its one feature is the image embedding.

    Args:
        image_encoder: None where features come from a cache and nothing is left to encode; ``read_image_encoder``
            then reads it for as long as its weights are hashed.
        prompt_encoder, mask_decoder: of the same SAM.
        padding: "bottom_right", SAM's own, after normalisation; "center": on all sides and before it, as the WPS-SAM
            authors' code does.
        pixel_mean, pixel_std: of RGB in 0..255.
        precision: "fp32" or "bf16", of the image encoder's matrix products; features are float32 all the same.
        compiled: pass the image encoder's layers through ``torch.compile``.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        image_encoder: ImageEncoder | None,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        padding: str = "bottom_right",
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
        precision: str = "fp32",
        compiled: bool = False,
        read_image_encoder: Callable[[], ImageEncoder] | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = None if image_encoder is None else accelerate(image_encoder, compiled=compiled)
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.padding = padding
        self.precision = precision
        self.spec = _spec(prompt_encoder.input_image_size[0])
        self._read_image_encoder = read_image_encoder
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self.freeze()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        node = cfg.MODEL.SAM
        live = node.FEATURES == "live"
        components = ("image_encoder", "prompt_encoder", "mask_decoder") if live else ("prompt_encoder", "mask_decoder")
        if not node.WEIGHTS:
            logger.warning("MODEL.SAM.WEIGHTS is empty: SAM has random weights, and its masks mean nothing")
        sam = build_sam(node.ARCH, node.WEIGHTS, components=components)
        return {
            "image_encoder": sam.image_encoder if live else None,
            "prompt_encoder": sam.prompt_encoder,
            "mask_decoder": sam.mask_decoder,
            "padding": node.PADDING,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "precision": node.PRECISION,
            "compiled": node.COMPILE,
            "read_image_encoder": lambda arch=node.ARCH, weights=node.WEIGHTS: (
                build_sam(arch, weights, components=("image_encoder",)).image_encoder
            ),
        }

    @classmethod
    def from_sam(cls, sam: Sam, precision: str = "fp32") -> SAMEncoder:
        """``sam`` itself, not a copy, which is frozen by this."""
        return cls(
            image_encoder=sam.image_encoder,
            prompt_encoder=sam.prompt_encoder,
            mask_decoder=sam.mask_decoder,
            precision=precision,
        )

    # -- by configuration

    @classmethod
    def load(cls, arch: str, weights: str = "", precision: str = "fp32", levels: str = "all") -> SAMEncoder:
        _check_levels(arch, levels)
        return cls.from_sam(build_sam(arch, weights), precision)

    @classmethod
    def spec_of(cls, cfg: CfgNode) -> EncoderSpec:
        _check_levels(cfg.MODEL.SAM.ARCH, cfg.MODEL.SAM.LEVELS)
        return _spec(get_arch(cfg.MODEL.SAM.ARCH).image_size)

    @classmethod
    def feature_settings(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "MODEL.BACKBONE.NAME": cls.__name__,
            "MODEL.SAM.ARCH": cfg.MODEL.SAM.ARCH,
            "MODEL.SAM.WEIGHTS": "sha256:" + image_encoder_hash(cfg.MODEL.SAM.ARCH, cfg.MODEL.SAM.WEIGHTS),
            "MODEL.SAM.PRECISION": cfg.MODEL.SAM.PRECISION,
            "MODEL.SAM.PADDING": cfg.MODEL.SAM.PADDING,
            "MODEL.PIXEL_MEAN": list(cfg.MODEL.PIXEL_MEAN),
            "MODEL.PIXEL_STD": list(cfg.MODEL.PIXEL_STD),
            "resize": f"longest side, {ResizeLongestSide.FILTER.name.lower()}",
            "version of the code": VERSION,
        }

    # -- pictures

    @property
    def size_divisibility(self) -> int:
        return PATCH_SIZE

    def frame(self, height: int, width: int) -> Frame:
        frame = padded_frame(self.image_size, height, width)
        if self.padding == "center":
            return replace(frame, top=(frame.size - height) // 2, left=(frame.size - width) // 2)
        return frame

    def preprocess(self, image: Tensor) -> tuple[Tensor, Frame]:
        frame = self.frame(*image.shape[-2:])
        if self.padding == "center":
            # The authors' way: black borders on all sides, normalised with the image.
            return (pad(image.float(), frame) - self.pixel_mean) / self.pixel_std, frame
        return pad((image.float() - self.pixel_mean) / self.pixel_std, frame), frame

    @torch.no_grad()
    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """``{"image_embedding": float32 [B, 256, S/16, S/16]}``; a ValueError tells of images of another size."""
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

    # -- prompts and masks

    def encode_prompts(
        self, *, boxes: Tensor | None = None, points: Tensor | None = None, inside: Tensor | None = None
    ) -> Tensor:
        """As the interface says; a box and a point together are three tokens. SAM's prompt encoder adds the half pixel
        of points and corners itself."""
        if boxes is None and points is None:
            raise ValueError("encode_prompts: expected boxes or points")
        if boxes is not None:
            check_columns("boxes", boxes, 4)
        clicks = None
        if points is not None:
            if inside is None:
                points, inside = one_click_a_prompt(points)
            clicks = (points, inside.long())
        # Not in the trained part's mixed precision either: what is taught must not depend on who learns it.
        with torch.autocast(self.pixel_mean.device.type, enabled=False):
            return self.prompt_encoder(points=clicks, boxes=boxes, masks=None)[0]

    def decode(
        self, features: Mapping[str, Tensor], prompts: Sequence[Tensor], multimask: bool = False
    ) -> list[MaskPredictions]:
        no_mask = self.prompt_encoder(points=None, boxes=None, masks=None)[1]
        position = self.prompt_encoder.get_dense_pe()
        return predict_masks(
            self.mask_decoder, features["image_embedding"], prompts, no_mask, position, multimask=multimask
        )

    # -- identity

    def weights_hash(self) -> str:
        """SHA-256 of all weights of this SAM."""
        encoder = self.image_encoder
        if encoder is None:
            assert self._read_image_encoder is not None, "a SAMEncoder without image encoder"
            encoder = self._read_image_encoder()
        # The names under which the first checkpoints had these modules: their hashes still hold.
        modules = {
            "backbone.image_encoder.": encoder,
            "teacher.prompt_encoder.": self.prompt_encoder,
            "decoder.mask_decoder.": self.mask_decoder,
        }
        return hash_tensors(
            (prefix + key, value)
            for prefix, module in modules.items()
            for key, value in sorted(module.state_dict().items())
        )

    def fingerprint(self) -> str:
        about = {
            "encoder": type(self).__name__,
            "version": VERSION,
            "weights": self.weights_hash(),
            "image_size": self.image_size,
            "padding": self.padding,
            "pixel_mean": [round(v, 6) for v in self.pixel_mean.flatten().tolist()],
            "pixel_std": [round(v, 6) for v in self.pixel_std.flatten().tolist()],
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _check_levels(arch: str, levels: str) -> None:
    check_levels(levels, f"{arch} has nothing but the embedding")


def _spec(image_size: int) -> EncoderSpec:
    cells = image_size // PATCH_SIZE
    return EncoderSpec(
        image_size=image_size,
        resize=ResizeLongestSide(image_size),
        features={"image_embedding": (PROMPT_DIM, cells, cells)},
        box_tokens=TOKENS_PER_PROMPT,
        point_tokens=TOKENS_PER_PROMPT,
        prompt_dim=PROMPT_DIM,
        mask_size=4 * cells,
    )
