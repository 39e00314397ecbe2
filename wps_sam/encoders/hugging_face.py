"""SAM-HQ, SAM 2.1, EdgeTAM and SAM 3 through transformers' classes as promptable encoders."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor

from ..structures import Frame
from .hugging_face_networks import (
    HUGGING_FACE_ARCHS,
    Family,
    config_of,
    network_hash,
    read_network,
    sam_transformer,
    weights_hash,
)
from .mask_decoder import cut_masks
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
from .sam import PIXEL_MEAN, PIXEL_STD

logger = logging.getLogger(__name__)

# As in sam.py.
VERSION = 1
# A point is itself and a padding, "not a point".
POINT_TOKENS = 2


@BACKBONE_REGISTRY.register()
class HuggingFaceSAM(PromptableEncoder):
    """A promptable segmenter of transformers, frozen; its features are the embedding, which prompters read, and what
    the mask decoder reads beside it.

    Args:
        network: of :func:`.hugging_face_networks.read_network`. None of its methods that encode prompts is used: they
            let no gradient through.
        family: of the same.
        live: False where features come from a cache and nothing is left to encode: the image encoder is given up.
        precision: "fp32" or "bf16", of the image encoder's matrix products; features are float32 all the same.
        levels: "all"; or "coarse", the embedding alone: the mask decoder then reads zeros in place of the finer maps.
        compiled: pass the image encoder through ``torch.compile``.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        network: Any,
        family: Family,
        live: bool = True,
        precision: str = "fp32",
        levels: str = "all",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.spec = _spec(family, network.config, levels)
        self.family = family
        self.precision = precision
        self.compiled = compiled
        self._weights_hash: str | None = None
        if not live:
            self._weights_hash = network_hash(network)
            network.vision_encoder = None
        self.network = network
        for name, values in zip(("pixel_mean", "pixel_std"), family.normalisation):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.freeze()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        node = cfg.MODEL.SAM
        _check_settings(cfg)
        if not node.WEIGHTS:
            logger.warning("MODEL.SAM.WEIGHTS is empty: %s has random weights, and its masks mean nothing", node.ARCH)
        if node.COMPILE and cfg.MODEL.DEVICE == "cpu":
            logger.warning("MODEL.SAM.COMPILE: ignored on the CPU")
        return {
            "network": read_network(node.ARCH, node.WEIGHTS),
            "family": HUGGING_FACE_ARCHS[node.ARCH].family,
            "live": node.FEATURES == "live",
            "precision": node.PRECISION,
            "levels": node.LEVELS,
            "compiled": node.COMPILE and cfg.MODEL.DEVICE != "cpu",
        }

    # -- by configuration

    @classmethod
    def load(cls, arch: str, weights: str = "", precision: str = "fp32", levels: str = "all") -> HuggingFaceSAM:
        family = HUGGING_FACE_ARCHS[arch].family
        return cls(network=read_network(arch, weights), family=family, precision=precision, levels=levels)

    @classmethod
    def spec_of(cls, cfg: CfgNode) -> EncoderSpec:
        _check_settings(cfg)
        node = cfg.MODEL.SAM
        return _spec(HUGGING_FACE_ARCHS[node.ARCH].family, config_of(node.ARCH), node.LEVELS)

    @classmethod
    def feature_settings(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.SAM
        _check_settings(cfg)
        way = "both sides" if HUGGING_FACE_ARCHS[node.ARCH].family.scales_both_sides else "longest side"
        return {
            "MODEL.BACKBONE.NAME": cls.__name__,
            "MODEL.SAM.ARCH": node.ARCH,
            "MODEL.SAM.WEIGHTS": "sha256:" + weights_hash(node.ARCH, node.WEIGHTS),
            "MODEL.SAM.PRECISION": node.PRECISION,
            "resize": f"{way}, {ResizeLongestSide.FILTER.name.lower()}",
            "version of the code": VERSION,
        }

    # -- pictures

    def frame(self, height: int, width: int) -> Frame:
        size = self.image_size
        if not self.family.scales_both_sides:
            return padded_frame(size, height, width)
        if (height, width) != (size, size):
            raise ValueError(
                f"{width}x{height} does not fill the {size}x{size} square; resize both sides to {size} first"
            )
        return Frame(size, height, width, stretched=True)

    def preprocess(self, image: Tensor) -> tuple[Tensor, Frame]:
        frame = self.frame(*image.shape[-2:])
        return pad((image.float() - self.pixel_mean) / self.pixel_std, frame), frame

    @functools.cached_property
    def _image_encoder(self) -> Callable[[Tensor], Any]:
        """No module of this one: its parameters are the network's."""
        return self.family.image_encoder(self.network, self.compiled)

    @torch.no_grad()
    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """As the interface says; a ValueError tells of images of another size."""
        if self.network.vision_encoder is None:
            raise ValueError(
                "MODEL.SAM.FEATURES is 'cache': no encoder was built, and this input has no image_embedding; "
                "set MODEL.SAM.FEATURES live for pictures that are in no cache"
            )
        size = self.image_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(
                f"{self.family.title}'s image encoder takes [B, 3, {size}, {size}], got {tuple(images.shape)}"
            )
        # Not the trained part's mixed precision: the embeddings must be the same in training, inference and a cache.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            seen = self.family.look(self.network, self._image_encoder(images.float()))
        return {name: seen[name].float().contiguous() for name in self.spec.features}

    # -- prompts and masks

    @functools.cached_property
    def _transformer(self) -> TwoWayTransformer:
        """As :attr:`_image_encoder`."""
        return sam_transformer(self.network.mask_decoder.transformer)

    def encode_prompts(
        self, *, boxes: Tensor | None = None, points: Tensor | None = None, inside: Tensor | None = None
    ) -> Tensor:
        """As the interface says; the network adds the half pixel of points and corners itself."""
        if boxes is None and points is None:
            raise ValueError("encode_prompts: expected boxes or points")
        if boxes is not None:
            check_columns("boxes", boxes, 4)
        if points is not None and inside is None:
            points, inside = one_click_a_prompt(points)
        # All prompts are of one image to transformers. Not in the trained part's mixed precision either: what is taught
        # must not depend on who learns it.
        with torch.autocast(self.pixel_mean.device.type, enabled=False):
            return self.network.prompt_encoder(
                input_points=None if points is None else points.float()[None],
                input_labels=None if inside is None else inside.int()[None],
                input_boxes=None if boxes is None else boxes.float()[None],
                input_masks=None,
            )[0][0]

    def decode(
        self, features: Mapping[str, Tensor], prompts: Sequence[Tensor], multimask: bool = False
    ) -> list[MaskPredictions]:
        decoder, embeddings = self.network.mask_decoder, features["image_embedding"]
        no_mask = self.network.prompt_encoder.no_mask_embed.weight[..., None, None]
        position = self.network.get_image_wide_positional_embeddings()
        shapes = self.family.shapes(self.network.config)
        missing = {
            name: embeddings.new_zeros(1, *shapes[name]).expand(len(embeddings), -1, -1, -1)
            for name in shapes.keys() - self.spec.features.keys()
        }
        own = torch.cat([getattr(decoder, name).weight for name in self.family.own_tokens])
        read, cut = self.family.read(multimask), self.family.cutter(decoder, {**missing, **features}, multimask)
        return cut_masks(self._transformer, own, read, embeddings + no_mask, prompts, position, cut, multimask)

    # -- identity

    def weights_hash(self) -> str:
        return self._weights_hash or network_hash(self.network)

    def fingerprint(self) -> str:
        about = {
            "encoder": f"{type(self).__name__} {self.family.title}",
            "version": VERSION,
            "weights": self.weights_hash(),
            "image_size": self.image_size,
            "scales both sides": self.family.scales_both_sides,
            "normalisation": self.family.normalisation,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _spec(family: Family, config: Any, levels: str) -> EncoderSpec:
    check_levels(levels, family.needs_all_levels)
    prompts = config.prompt_encoder_config
    size = prompts.image_size
    return EncoderSpec(
        image_size=size,
        resize=T.Resize(size, ResizeLongestSide.FILTER) if family.scales_both_sides else ResizeLongestSide(size),
        features={n: s for n, s in family.shapes(config).items() if levels == "all" or n == "image_embedding"},
        box_tokens=family.box_tokens,
        point_tokens=POINT_TOKENS,
        prompt_dim=prompts.hidden_size,
        mask_size=4 * (size // prompts.patch_size),
    )


def _check_settings(cfg: CfgNode) -> None:
    """Refuses what only SAM's own class reads: these see pictures in one way, which their weights were trained with."""
    own = {"SAM.PADDING": "bottom_right", "PIXEL_MEAN": list(PIXEL_MEAN), "PIXEL_STD": list(PIXEL_STD)}
    found = {"SAM.PADDING": cfg.MODEL.SAM.PADDING, "PIXEL_MEAN": cfg.MODEL.PIXEL_MEAN, "PIXEL_STD": cfg.MODEL.PIXEL_STD}
    for key, default in own.items():
        if found[key] != default:
            raise ValueError(
                f"MODEL.{key} is {found[key]!r}, but MODEL.SAM.ARCH {cfg.MODEL.SAM.ARCH} has a way of its own; leave "
                f"it at {default!r}"
            )
