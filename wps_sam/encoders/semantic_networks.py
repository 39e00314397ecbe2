"""Semantic networks of transformers and timm behind one call: normalised pictures in, maps out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .build_sam import RANDOM_WEIGHTS_SEED
from .clip import import_transformers

# Stages that are kept of networks with several, by the pixels of their cells.
STRIDES = (8, 16, 32)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# Of networks that take RGB in 0..1 as it is.
NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "semantic"


class SemanticNetwork(nn.Module):
    """One network. ``channels``: its maps' channels D by the pixels of a cell, in the order in which they come out;
    ``pixel_mean``, ``pixel_std`` of RGB in 0..1."""

    network: Any

    def __init__(
        self, network: Any, channels: Mapping[int, int], pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = dict(channels)
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)

    def look(self, images: Tensor) -> list[Tensor]:
        """As :meth:`forward`, of RGB in 0..255, which it normalises."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.pixel_mean, self.pixel_std))
        return self((images / 255 - mean) / std)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised squares [B, 3, s, s] to maps [B, D, s/stride, s/stride]."""
        raise NotImplementedError


class TimmNetwork(SemanticNetwork):
    """Any network of timm that gives feature maps: the last map of each of :data:`STRIDES`, or of what it has."""

    def __init__(self, network: Any, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        info = network.feature_info
        last = {stride: k for k, stride in enumerate(info.reduction())}
        kept = [last[stride] for stride in STRIDES if stride in last] or [len(info.reduction()) - 1]
        channels = {info.reduction()[k]: info.channels()[k] for k in kept}
        # Convolutions of few channels are a fifth faster so on a CPU.
        super().__init__(network.to(memory_format=torch.channels_last), channels, pixel_mean, pixel_std)
        self.kept = kept

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.network(images.contiguous(memory_format=torch.channels_last))
        # Some transformers have channels last.
        fixed = [m if m.shape[1] == c else m.movedim(-1, 1) for m, c in zip(maps, self.network.feature_info.channels())]
        return [fixed[k] for k in self.kept]


class PatchNetwork(SemanticNetwork):
    """A vision transformer of transformers: the tokens of its patches, after its last layer."""

    def __init__(self, network: Any, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__(network, {network.config.patch_size: network.config.hidden_size}, pixel_mean, pixel_std)
        self.patch = network.config.patch_size
        self.more = {"interpolate_pos_encoding": True} if network.config.model_type in _FIXED_POSITIONS else {}

    def forward(self, images: Tensor) -> list[Tensor]:
        side = images.shape[-1] // self.patch
        tokens = self.tokens(images, side)
        # Class tokens and registers come first.
        return [tokens[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))]

    def tokens(self, images: Tensor, side: int) -> Tensor:
        """[B, any + side^2, D]."""
        return self.network(images, **self.more).last_hidden_state


class PackedPatchNetwork(PatchNetwork):
    """SigLIP 2 of any resolution, which takes its patches cut out."""

    def tokens(self, images: Tensor, side: int) -> Tensor:
        patches = images.unflatten(3, (side, self.patch)).unflatten(2, (side, self.patch)).permute(0, 2, 4, 3, 5, 1)
        patches = patches.flatten(3).flatten(1, 2)
        shapes = torch.tensor([[side, side]] * len(images), device=images.device)
        present = torch.ones(patches.shape[:2], dtype=torch.int64, device=images.device)
        return self.network(patches, pixel_attention_mask=present, spatial_shapes=shapes).last_hidden_state


class StagesNetwork(SemanticNetwork):
    """A convolutional backbone of transformers."""

    def __init__(self, network: Any, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__(network, dict(zip(STRIDES, network.channels)), pixel_mean, pixel_std)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.network(images).feature_maps)


# ------------------------------------------------------------------ reading


_FIXED_POSITIONS = ("clip_vision_model", "siglip_vision_model")
# Families of MODEL.SEMANTIC.NAME that transformers reads: model_type of config.json to the class that is built and how
# RGB is normalised where the folder has no preprocessor_config.json. A folder of CLIP, SigLIP or TIPS holds a text
# encoder as well, which is left out.
_Kind = tuple[str, Callable[..., SemanticNetwork], tuple[Sequence[float], Sequence[float]]]
TRANSFORMERS: dict[str, dict[str, _Kind]] = {
    "dinov2": {
        "dinov2": ("Dinov2Model", PatchNetwork, IMAGENET),
        "dinov2_with_registers": ("Dinov2WithRegistersModel", PatchNetwork, IMAGENET),
    },
    "dinov3": {
        "dinov3_vit": ("DINOv3ViTModel", PatchNetwork, IMAGENET),
        "dinov3_convnext": ("DINOv3ConvNextBackbone", StagesNetwork, IMAGENET),
    },
    "clip": {
        "clip": ("CLIPVisionModel", PatchNetwork, CLIP),
        "clip_vision_model": ("CLIPVisionModel", PatchNetwork, CLIP),
    },
    # The checkpoints of SigLIP 2 for one resolution are built as those of SigLIP.
    "siglip2": {
        "siglip": ("SiglipVisionModel", PatchNetwork, HALF),
        "siglip_vision_model": ("SiglipVisionModel", PatchNetwork, HALF),
        "siglip2": ("Siglip2VisionModel", PackedPatchNetwork, HALF),
        "siglip2_vision_model": ("Siglip2VisionModel", PackedPatchNetwork, HALF),
    },
    "tipsv2": {
        "tipsv2": ("Tipsv2VisionModel", PatchNetwork, NONE),
        "tipsv2_vision_model": ("Tipsv2VisionModel", PatchNetwork, NONE),
    },
    # It normalises by itself.
    "radio": {"radio": ("RadioModel", PatchNetwork, NONE)},
}
# The sizes of networks with random weights.
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def read_network(name: str, weights: str) -> SemanticNetwork:
    """The network of MODEL.SEMANTIC.NAME and WEIGHTS.

    Raises:
        ValueError: the family is unknown; or names the weights that are missing, incomplete or of another family.
    """
    check_name(name)
    family, _, architecture = name.partition("/")
    return _read_timm(architecture, weights) if family == "timm" else _read_transformers(family, weights)


def check_name(name: str) -> None:
    """ValueError unless MODEL.SEMANTIC.NAME is a family, or one of timm's architectures."""
    if name not in (*TRANSFORMERS, "timm") and not name.startswith("timm/"):
        raise ValueError(
            f"MODEL.SEMANTIC.NAME is {name!r}; allowed: {', '.join(map(repr, TRANSFORMERS))}, 'timm' and "
            "'timm/ARCHITECTURE'"
        )


def _read_timm(architecture: str, weights: str) -> SemanticNetwork:
    if architecture:
        return timm_features(architecture, weights)
    if not weights:
        raise ValueError(
            "MODEL.SEMANTIC.NAME is 'timm': expected 'timm/ARCHITECTURE', or WEIGHTS that say which one they are of"
        )
    folder = str(SHIPPED) if weights == "shipped" else weights
    return timm_features(f"{'local-dir' if Path(folder).is_dir() else 'hf-hub'}:{folder}", "pretrained")


def timm_features(architecture: str, weights: str = "", changes: Mapping[str, Any] | None = None) -> TimmNetwork:
    """A network of timm.

    Args:
        architecture: timm's name, which may be that of a folder or of the hub.
        weights: "" for random ones, "pretrained" for those that the architecture names, or a file.
        changes: what differs from the architecture, by timm's names.

    Raises:
        ValueError: there is no such architecture, or the weights are missing or not of it.
    """
    more: dict[str, Any] = {"features_only": True, "pretrained": bool(weights), **(changes or {})}
    if weights not in ("", "pretrained"):
        if not Path(weights).is_file():
            raise ValueError(f"MODEL.SEMANTIC.WEIGHTS {weights}: the file does not exist")
        more["pretrained_cfg_overlay"] = {"file": weights}
    try:
        with torch.random.fork_rng(devices=()), torch.device("cpu"):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            try:
                # Transformers, which otherwise take pictures of one size.
                network: Any = timm.create_model(architecture, dynamic_img_size=True, **more)
            except TypeError:
                network = timm.create_model(architecture, **more)
    except (RuntimeError, OSError, KeyError, AssertionError) as error:
        hint = "; no such folder is here" if architecture.startswith("hf-hub:") else ""
        message = f"MODEL.SEMANTIC: timm can't build {architecture!r} with {weights!r}{hint}: {error}"
        raise ValueError(message) from error
    about = network.pretrained_cfg
    return TimmNetwork(network.eval(), about.get("mean", IMAGENET[0]), about.get("std", IMAGENET[1]))


def _read_transformers(family: str, weights: str) -> SemanticNetwork:
    transformers = import_transformers("this MODEL.SEMANTIC.NAME")
    kinds = TRANSFORMERS[family]
    if not weights:
        class_name, kind, normalisation = next(iter(kinds.values()))
        network_class = getattr(transformers, class_name)
        with torch.random.fork_rng(devices=()), torch.device("cpu"):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            return kind(network_class(network_class.config_class(**TINY)).eval(), *normalisation)
    try:
        config = transformers.AutoConfig.from_pretrained(weights)
        if config.model_type not in kinds:
            raise ValueError(f"holds a network of the type {config.model_type!r}, expected {' or '.join(kinds)}")
        class_name, kind, normalisation = kinds[config.model_type]
        more = {"out_indices": (2, 3, 4)} if kind is StagesNetwork else {}
        network, info = getattr(transformers, class_name).from_pretrained(
            weights, output_loading_info=True, dtype=torch.float32, **more
        )
        missing = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
        if missing:
            raise ValueError(f"lacks {len(missing)} weights of {class_name}, the first {sorted(missing)[0]!r}")
    except (OSError, ValueError, KeyError) as error:
        where = "" if Path(weights).is_dir() else " is no folder here, and from the hub came"
        raise ValueError(f"MODEL.SEMANTIC.WEIGHTS {weights}{where}: {error}") from error
    return kind(network.eval(), *_normalisation(Path(weights), normalisation))


def _normalisation(folder: Path, default: tuple[Sequence[float], Sequence[float]]) -> tuple[Sequence[float], ...]:
    """Mean and deviation of RGB in 0..1, as a folder's own preprocessor_config.json has them."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return default
    said = json.loads(file.read_text(encoding="utf-8"))
    if not said.get("do_normalize", True):
        return NONE
    return said.get("image_mean", default[0]), said.get("image_std", default[1])
