"""CATSeg, the one-stage baseline of OV-PARTS that compares every cell of a picture with every name.

Axes in comments: B images, K part classes, P templates, E width of CLIP's joint embedding, S side of the square network
input in pixels, h x w its cells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import clip
from ..encoders.build_sam import RANDOM_WEIGHTS_SEED, read_state_dict
from ..encoders.clip import CLIP, IMAGENET_TEMPLATES, build_clip
from ..encoders.openai_clip import from_openai
from ..vocabulary import PartVocabulary
from .cost_aggregation import CostAggregation
from .named_masks import NamedMasks
from .resnet import ARCHS as RESNETS
from .resnet import ResNet, from_detectron2

logger = logging.getLogger(__name__)

# To multiples of it the reference pads a picture before it squeezes it.
_PADDED_TO = 32
# Of the cells, in pixels: that of res4.
_STRIDE = 16
# The modules of a published checkpoint, whose tensors have names of their own, and ours.
_PUBLISHED: dict[str, tuple[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "backbone.": ("backbone.", from_detectron2),
    "sem_seg_head.predictor.clip_model.": ("clip.", from_openai),
    "sem_seg_head.predictor.transformer.": ("aggregator.", dict),
}
_PUBLISHED_BACKGROUND = "sem_seg_head.predictor.non_object_embedding"


class Arch(NamedTuple):
    """S; the size of CLIP, if it is random, and of the ResNet; how many templates; the sizes of the aggregator."""

    image_size: int
    clip: str
    backbone: str
    num_templates: int
    aggregator: dict[str, Any]


ARCHS: dict[str, Arch] = {
    "vitb_r101_384": Arch(
        image_size=384,
        clip="vit_b_16",
        backbone="resnet101_res4",
        num_templates=len(IMAGENET_TEMPLATES),
        aggregator={
            **{"width": 128, "num_heads": 4, "window": 12, "pool": 2, "num_layers": 2},
            **{"decoder_dims": (64, 32), "decoder_guidance_dims": (32, 16)},
        },
    ),
    "tiny": Arch(
        image_size=64,
        clip="tiny",
        backbone="tiny_res4",
        num_templates=3,
        aggregator={
            **{"width": 16, "num_heads": 2, "window": 2, "pool": 2, "num_layers": 2},
            **{"decoder_dims": (32, 16), "decoder_guidance_dims": (8, 8)},
        },
    ),
}


class Networks(NamedTuple):
    """What CATSeg is made of; ``background`` float [E]: the embedding of a checkpoint that holds one."""

    clip: CLIP
    backbone: ResNet
    aggregator: CostAggregation
    background: Tensor | None


def build_networks(arch: str, clip_weights: str = "", weights: str = "") -> Networks:
    """The networks of a CATSeg, in eval mode.

    Args:
        arch: a key of ``ARCHS``.
        clip_weights: a CLIP of Hugging Face, name or folder, whose tokenizer is used, and its weights until those of
            ``weights`` take their place. "" for random ones from a fixed seed, whose tokens are the bytes of a name.
        weights: a checkpoint of CAT-Seg, as model_final_base.pth, or of OV-PARTS. It holds a CLIP of its own, whose
            image encoder was trained. "" for random weights from a fixed seed.

    Raises:
        ImportError: transformers is not installed.
        ValueError: ``clip_weights`` are no CLIP, or the checkpoint can't be read or is not of this size.
    """
    sizes = ARCHS[arch]
    encoder = build_clip(clip_weights, sizes.clip)
    if encoder.patch_size != _STRIDE:
        raise ValueError(
            f"MODEL.CATSEG.CLIP {clip_weights}: has patches of {encoder.patch_size} pixels, expected {_STRIDE}, the "
            "stride of res4"
        )
    side = sizes.image_size // _STRIDE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        backbone = ResNet(RESNETS[sizes.backbone])
        fine, middle, coarse = backbone.channels
        aggregator = CostAggregation(
            grid=(side, side),
            num_templates=sizes.num_templates,
            text_dim=encoder.model.config.projection_dim,
            guidance_dims=(fine, middle, coarse),
            **sizes.aggregator,
        )
    background = None
    if weights:
        whole = nn.ModuleDict({"clip": encoder.model, "backbone": backbone, "aggregator": aggregator})
        state, background = read_published(weights)
        try:
            whole.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"MODEL.CATSEG.WEIGHTS {weights}: no CATSeg {arch}: {error}") from error
    else:
        logger.warning("MODEL.CATSEG.WEIGHTS is empty: CATSeg has a random ResNet and a random aggregator")
    return Networks(encoder, backbone.eval(), aggregator.eval(), background)


def read_published(path: str) -> tuple[dict[str, Tensor], Tensor | None]:
    """A checkpoint of CAT-Seg or OV-PARTS under our names, and its background embedding [E], if it holds one.

    Raises:
        ValueError: it can't be read, or holds something else; names the file and the tensor.
    """
    try:
        published = read_state_dict(path)
    except ValueError as error:
        raise ValueError(f"MODEL.CATSEG.WEIGHTS {error}") from error
    background = published.pop(_PUBLISHED_BACKGROUND, None)
    state: dict[str, Tensor] = {}
    for prefix, (ours, convert) in _PUBLISHED.items():
        names = [name for name in published if name.startswith(prefix)]
        try:
            converted = convert({name[len(prefix) :]: published.pop(name) for name in names})
        except ValueError as error:
            raise ValueError(f"MODEL.CATSEG.WEIGHTS {path}: {prefix}{error}") from error
        state.update({ours + name: value for name, value in converted.items()})
    if published:
        raise ValueError(f"MODEL.CATSEG.WEIGHTS {path}: no CATSeg holds {sorted(published)[:5]}")
    return state, None if background is None else background.flatten()


@META_ARCH_REGISTRY.register()
class CATSeg(NamedMasks):
    """CAT-Seg (arXiv 2303.11797) of March 2023, fine-tuned on part masks as in OV-PARTS (arXiv 2310.05107).

    A frozen CLIP compares every cell of the picture with every name in every template. A trained aggregator turns
    these costs into masks, guided by the features of a trained ResNet. Its attention over classes lets every name
    have a say in all masks: so an object's own parts are asked for among all classes, and taken out afterwards.

    Args:
        networks: see :func:`build_networks`.
        templates: P sentences with one ``{}`` each, in the order of the aggregator's first convolution.
        image_size: S, to which pictures are squeezed; their shape is not kept.
        trained: of "backbone" and "aggregator", which is all between costs and masks.
        background_weight: see :func:`~wps_sam.models.named_masks.mask_loss`.
        backbone_multiplier: of the learning rate of the backbone.
        compat: what of OV-PARTS' code to repeat at inference. "padding": a picture is padded with its mean colour to
            multiples of 32 before it is squeezed, but the masks are stretched over the picture itself.
            "sigmoid_first": probabilities, not logits, are upsampled. "fresh_background": the embedding of the
            background is drawn anew, whatever was trained.
        own_classes_only: inputs of one object get the scores of its own classes; False: of all, so that an evaluator
            may choose others.
        pixel_mean, pixel_std: of RGB in 0..255, for the ResNet; CLIP has its own.
    """

    HASH_KEY = "frozen_catseg_sha256"
    FROZEN_NAME = "CATSeg, or other parts of it were trained"
    FROZEN_KEYS = "MODEL.CATSEG.WEIGHTS, MODEL.CATSEG.CLIP, MODEL.CATSEG.ARCH and MODEL.CATSEG.TRAIN"

    normalisation: Tensor

    @configurable
    def __init__(
        self,
        *,
        networks: Networks,
        templates: Sequence[str],
        image_size: int,
        trained: Sequence[str],
        background_weight: float,
        backbone_multiplier: float,
        compat: Sequence[str],
        own_classes_only: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(networks.clip.model.config.projection_dim, trained, background_weight)
        self.clip, self.backbone, self.aggregator, background = networks
        if background is not None:
            self.background_embedding.copy_(background)
        self.templates = tuple(templates)
        self.image_size = image_size
        self.backbone_multiplier = backbone_multiplier
        self.compat = tuple(compat)
        self.own_classes_only = own_classes_only
        of_clip = [[255 * value for value in values] for values in (clip.PIXEL_MEAN, clip.PIXEL_STD)]
        normalisation = torch.tensor([of_clip, [list(pixel_mean), list(pixel_std)]]).view(2, 2, 3, 1, 1)
        # Of CLIP and of the ResNet: means and deviations.
        self.register_buffer("normalisation", normalisation, persistent=False)
        # Features [P, E] of names that were asked for: frozen, and of hundreds of texts each.
        self._known_names: dict[str, Tensor] = {}
        self.freeze_the_rest()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.CATSEG
        sizes = ARCHS[node.ARCH]
        return {
            "networks": build_networks(node.ARCH, node.CLIP, node.WEIGHTS),
            "templates": IMAGENET_TEMPLATES[: sizes.num_templates],
            "image_size": sizes.image_size,
            "trained": node.TRAIN,
            "background_weight": node.BACKGROUND_WEIGHT,
            "backbone_multiplier": node.BACKBONE_MULTIPLIER,
            "compat": node.COMPAT,
            "own_classes_only": "substring_names" not in cfg.TEST.OV_COMPAT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def trained_modules(self) -> list[nn.Module]:
        modules: dict[str, nn.Module] = {"backbone": self.backbone, "aggregator": self.aggregator}
        return [modules[part] for part in self.trained]

    def optimizer_rules(self) -> dict[nn.Parameter, dict[str, float]]:
        """Factors of the learning rate, "lr", of parameters that are not as the others."""
        return {parameter: {"lr": self.backbone_multiplier} for parameter in self.backbone.parameters()}

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Normalises as CLIP and as the ResNet have it, and squeezes: float [2, B, 3, S, S]."""
        size = (self.image_size, self.image_size)
        squares = []
        for record in batched_inputs:
            normalised = (record["image"].to(self.device).float() - self.normalisation[:, 0]) / self.normalisation[:, 1]
            if "padding" in self.compat:
                height, width = normalised.shape[-2:]
                normalised = F.pad(normalised, (0, -width % _PADDED_TO, 0, -height % _PADDED_TO))
            squares.append(F.interpolate(normalised, size, mode="bilinear", align_corners=False))
        return torch.stack(squares, dim=1)

    def encode_images(self, images: Tensor) -> list[Tensor]:
        """Pictures [2, B, 3, S, S] to CLIP's cells [B, h, w, E], and the ResNet's res2, res3 and res4."""
        for_clip, for_backbone = images
        return [self.clip.dense_features(for_clip), *self.backbone(for_backbone)]

    def encode_names(self) -> Tensor:
        """Features of unit length of the classes and, last, the background: float [K+1, P, E]; kept by their names."""
        if self.prompts is None:
            assert self.vocabulary is not None
            new = [name for name in self.vocabulary.names if name not in self._known_names]
            if new:
                self._known_names.update(zip(new, self.clip.name_features(new, self.templates).cpu()))
            names = torch.stack([self._known_names[name] for name in self.vocabulary.names]).to(self.device)
            background = self.background_embedding
            if "fresh_background" in self.compat and not self.training:
                background = torch.randn_like(background)
            everywhere = F.normalize(background, dim=0).expand(1, len(self.templates), -1)
            self.prompts = torch.cat([names, everywhere])
        return self.prompts

    def decode(self, features: list[Tensor], prompts: Tensor) -> Tensor:
        """Logits [B, K+1, S, S], upsampled from a quarter of the side."""
        size = (self.image_size, self.image_size)
        return F.interpolate(self.masks(features, prompts), size, mode="bilinear", align_corners=False)

    def masks(self, features: list[Tensor], prompts: Tensor) -> Tensor:
        """Logits [B, K+1, S/4, S/4] of the aggregator, of :meth:`encode_images` and :meth:`encode_names`."""
        cells, *of_backbone = features
        return self.aggregator(cells, prompts, *of_backbone)

    def scores(self, features: list[Tensor], prompts: Tensor, classes: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Probabilities [k, H, W]: all classes go through the aggregator, whichever are asked for."""
        masks = self.masks(features, prompts)
        if classes is not None:
            masks = masks[:, classes]
        if "sigmoid_first" in self.compat:
            return F.interpolate(masks.sigmoid(), size, mode="bilinear", align_corners=False)[0]
        return F.interpolate(masks, size, mode="bilinear", align_corners=False)[0].sigmoid()

    def semantic_inference(
        self, features: list[Tensor], prompts: Tensor, record: dict[str, Any], vocabulary: PartVocabulary
    ) -> dict[str, Any]:
        if not self.own_classes_only:
            record = {key: value for key, value in record.items() if key != "category_id"}
        return super().semantic_inference(features, prompts, record, vocabulary)

    def check_frozen(self, state_dict: dict[str, Any], prefix: str) -> None:
        super().check_frozen(state_dict, prefix)
        self._known_names.clear()
