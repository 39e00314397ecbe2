"""What looks at pictures: CLIP with texts, or, where there is none, a semantic network that has learned the tags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import SemanticEncoder
from ..encoders.clip import CLIP, PIXEL_MEAN, PIXEL_STD, ImageView
from .cams import balanced_affinity, class_aware_attention, jensen_shannon_affinity, min_max, softmax_gradcam
from .settings import MapSettings

# Cells in which a semantic network's maps are put together, in pixels of its square.
STRIDE = 16
# How much more two cells of a semantic network that are alike pass to each other than two that are not.
SHARPNESS = 4
# Weight of squared weights against the mean loss of a picture.
WEIGHT_DECAY = 1e-3


class ImageLevelNetwork(ABC):
    """What makes maps of tags; by which affinities they are passed on, settings have checked."""

    num_classes: int

    @abstractmethod
    def maps(self, image: np.ndarray, tags: Tensor, settings: MapSettings) -> Tensor:
        """Maps [T, h, w] of the tags int64 [T] of a picture uint8 [H, W, 3], RGB; on the CPU, without gradient."""


class GradCAMNetwork(ImageLevelNetwork):
    """A frozen network and what its C classes are to it, whose maps are those of :func:`softmax_gradcam`."""

    @abstractmethod
    def view(self, image: np.ndarray, affinity: str = "") -> ImageView:
        """What it sees in a picture uint8 [H, W, 3], RGB; with the affinity of its patches if asked."""

    @abstractmethod
    def logits(self, view: ImageView) -> Tensor:
        """[N, K] of the classes and whatever else it knows."""

    @abstractmethod
    def others(self, tags: Tensor) -> Tensor:
        """What is against the tags int64 [T] of a picture: rows of the logits, int64 [B]."""

    # Of a class the mean patch inside and outside of its exemplar, see :meth:`remember`.
    exemplars: dict[int, tuple[Tensor, Tensor]] = {}  # noqa: RUF012

    def maps(self, image: np.ndarray, tags: Tensor, settings: MapSettings) -> Tensor:
        view = self.view(image, settings.affinity)
        tags = tags.to(view.activations.device)
        maps = self.raw_maps(view, tags)
        for row, tag in enumerate(tags.tolist()):
            if tag in self.exemplars:
                maps[row] = exemplar_map(view, *self.exemplars[tag])
        if view.affinity is not None and len(tags):
            between = view.affinity[0]
            if settings.js:
                classes = maps.flatten(1).T.clamp(min=0)
                between = between * jensen_shannon_affinity(classes / classes.sum(1, keepdim=True).clamp(min=1e-12))
            passed = balanced_affinity(between, settings.rounds, settings.power)
            maps = class_aware_attention(maps, passed, settings.threshold, settings.scores, settings.exclusive_edges)
        if settings.prototypes:
            maps = prototype_maps(view, maps, settings.prototypes)
        return maps.detach().cpu()

    def raw_maps(self, view: ImageView, tags: Tensor) -> Tensor:
        """[T, h, w], before anything is passed on."""
        return softmax_gradcam(view, self.logits(view), [tags], [self.others(tags)])[0]

    def remember(self, exemplars: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> None:
        """Of some classes one picture uint8 [H, W, 3] and the mask bool [H, W] of the part in it: their maps are then
        how alike patches are to what is inside it, and to what is outside. For classes that are in every picture, of
        which tags say nothing."""
        self.exemplars = {}
        for c, (image, mask) in exemplars.items():
            view = self.view(image)
            share = F.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None, None], view.grid)[0, 0]
            self.exemplars[c] = mean_patches(view, share)


def patches_of(view: ImageView) -> Tensor:
    """[N, P, D], without gradient."""
    return view.activations.detach()[:, view.prefix :]


def mean_patches(view: ImageView, share: Tensor) -> tuple[Tensor, Tensor]:
    """Of one image's patches the mean [D] of what is inside a region and of what is outside; ``share`` [h, w], 0..1, of
    each patch that is inside."""
    patches, inside = patches_of(view)[0], share.flatten()
    weights = torch.stack([inside, 1 - inside]).to(patches)
    means = weights @ patches / weights.sum(1, keepdim=True).clamp(min=1e-6)
    return means[0], means[1]


def prototype_maps(view: ImageView, maps: Tensor, confident: float) -> Tensor:
    """One round of visual prototypes: maps [T, h, w] anew, by the mean patch where each is sure, and that elsewhere.

    Args:
        confident: a map is sure where it is at least this share of the way to its largest value.
    """
    regions = (min_max(maps) >= confident).float()
    # A map that is alike everywhere is sure of nothing, and stays.
    made = [exemplar_map(view, *mean_patches(view, r)) if r.any() else m for m, r in zip(maps, regions)]
    return torch.stack(made) if made else maps


def exemplar_map(view: ImageView, inside: Tensor, outside: Tensor) -> Tensor:
    """[h, w] of one image: how much more its patches are like ``inside`` [D] than like ``outside`` [D], by cosines."""
    patches = F.normalize(patches_of(view)[0], dim=-1)
    both = F.normalize(torch.stack([inside, outside]), dim=-1)
    alike = patches @ both.T
    return (alike[:, 0] - alike[:, 1]).unflatten(0, view.grid)


class CLIPNetwork(GradCAMNetwork):
    """CLIP; against the tags are backgrounds, or, where none are named, the classes that are not in the picture.

    Args:
        texts: gives K features, the classes' first.
        num_classes: C; the other K - C are backgrounds.
        side: the longer side of a picture in pixels as CLIP sees it; 0: as it is. Both are rounded up to patches.
        companion: whose features are the affinity "cosine".
    """

    def __init__(
        self, clip: CLIP, texts: nn.Module, num_classes: int, side: int = 0, companion: TagNetwork | None = None
    ) -> None:
        self.clip, self.texts, self.num_classes, self.side, self.companion = clip, texts, num_classes, side, companion
        with torch.no_grad():
            self.num_texts = len(texts())

    def view(self, image: np.ndarray, affinity: str = "") -> ImageView:
        height, width = image.shape[:2]
        scale = self.side / max(height, width) if self.side else 1.0
        patch = self.clip.patch_size
        size = [-(-round(length * scale) // patch) * patch for length in (width, height)]
        resized = Image.fromarray(image).resize((max(size[0], patch), max(size[1], patch)), Image.Resampling.BICUBIC)
        pixels = normalised(np.asarray(resized), self.clip)[None]
        if affinity != "cosine":
            return self.clip.look(pixels, affinity)
        assert self.companion is not None
        view, other = self.clip.look(pixels), self.companion.view(image)
        alike = F.interpolate(patches_of(other).transpose(1, 2).unflatten(2, other.grid), view.grid, mode="bilinear")
        return replace(view, affinity=cosine_affinity(alike.flatten(2).transpose(1, 2)).to(view.activations))

    def logits(self, view: ImageView) -> Tensor:
        return self.clip.scale * view.features @ self.texts().T

    def others(self, tags: Tensor) -> Tensor:
        if self.num_texts == self.num_classes:
            return absent(tags, self.num_classes)
        return torch.arange(self.num_classes, self.num_texts, device=tags.device)


def normalised(image: np.ndarray, clip: CLIP) -> Tensor:
    """uint8 [h, w, 3] to CLIP's input [3, h, w], of its dtype and on its device."""
    mean, std = (clip.scale.new_tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = torch.from_numpy(image.copy()).to(clip.scale.device).permute(2, 0, 1).to(clip.scale.dtype)
    return (pixels / 255 - mean) / std


class TagNetwork(GradCAMNetwork):
    """A semantic network and a linear classifier of its mean features, learned from tags; against the tags of a picture
    are the classes that are not in it.

    Stands in where no CLIP is to be had. It knows no words, and of a class that is in every picture nothing.

    Args:
        network: frozen.
        weight, bias: [C, D] and [C], of :func:`fit_tags`; None: not learned yet, then it can only look.
        of_patches: weight and bias are of :func:`fit_patches`, background last, learned from seeds; a map is then the
            probability of a tag among the tags and background.
    """

    def __init__(
        self,
        network: SemanticEncoder,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        of_patches: bool = False,
    ) -> None:
        self.network, self.weight, self.bias, self.of_patches = network, weight, bias, of_patches
        self.num_classes = 0 if weight is None else len(weight) - of_patches

    def view(self, image: np.ndarray, affinity: str = "") -> ImageView:
        size = self.network.square
        height, width = (max(1, round(side * size / max(image.shape[:2]))) for side in image.shape[:2])
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        square = torch.full((1, 3, size, size), 127.5)
        square[0, :, :height, :width] = torch.from_numpy(resized.copy()).permute(2, 0, 1)
        rows, columns = (max(1, round(side / STRIDE)) for side in (height, width))
        maps = []
        for feature in self.network(square).values():
            # What lies beside the picture is cut off before cells are put together.
            cells = [max(1, round(side * feature.shape[-1] / size)) for side in (height, width)]
            seen = feature[:, :, : cells[0], : cells[1]]
            larger = cells[0] > rows or cells[1] > columns
            maps.append(F.adaptive_avg_pool2d(seen, (rows, columns)) if larger else _enlarged(seen, rows, columns))
        patches = torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
        between = cosine_affinity(patches) if affinity else None
        activations = patches.detach().requires_grad_()
        with torch.enable_grad():
            features = activations.mean(1)
        return ImageView((rows, columns), activations, 0, features, between)

    def logits(self, view: ImageView) -> Tensor:
        if self.weight is None or self.bias is None:
            raise ValueError("the network has not learned any tags yet")
        return view.features @ self.weight.T + self.bias

    def raw_maps(self, view: ImageView, tags: Tensor) -> Tensor:
        if not self.of_patches:
            return super().raw_maps(view, tags)
        assert self.weight is not None and self.bias is not None
        logits = patches_of(view)[0] @ self.weight.T + self.bias
        allowed = torch.cat([tags, tags.new_tensor([self.num_classes])])
        return logits[:, allowed].softmax(-1)[:, :-1].T.unflatten(1, view.grid).contiguous()

    def others(self, tags: Tensor) -> Tensor:
        return absent(tags, self.num_classes)


def absent(tags: Tensor, num_classes: int) -> Tensor:
    """int64 [C - T], in order: the classes that are not among the tags int64 [T]."""
    missing = torch.ones(num_classes, dtype=torch.bool, device=tags.device)
    missing[tags] = False
    return missing.nonzero()[:, 0]


def cosine_affinity(patches: Tensor) -> Tensor:
    """[N, P, D] to [N, P, P]: how alike patches are, sharpened; 0 for those that are opposed."""
    unit = F.normalize(patches, dim=-1)
    return (unit @ unit.transpose(1, 2)).clamp(min=0) ** SHARPNESS


def _enlarged(feature: Tensor, rows: int, columns: int) -> Tensor:
    return F.interpolate(feature, (rows, columns), mode="bilinear", align_corners=False)


def fit_tags(features: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression of each class: weight [C, D] and bias [C].

    Args:
        features: of pictures, [n, D]; ``tags`` bool [n, C].
    """

    def loss(logits: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, tags.float(), reduction="sum") / len(tags)

    return _regress(features, tags.shape[1], loss)


def fit_patches(patches: Tensor, labels: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression of patches, every label that occurs of like weight: [K, D] and [K].

    Args:
        patches: [n, D]; ``labels`` int64 [n], 0..K-1.
    """
    rarity = 1 / labels.bincount(minlength=num_labels).clamp(min=1).float()
    return _regress(patches, num_labels, lambda logits: F.cross_entropy(logits, labels, weight=rarity))


def _regress(features: Tensor, num_outputs: int, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Weight [K, D] and bias [K] with the least ``loss`` of logits [n, K], and squares of weights."""
    weight = torch.zeros(num_outputs, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_outputs, requires_grad=True)
    # In units of its own spread a feature's weight costs alike, whatever the network.
    mean, spread = features.mean(0), features.std(0).clamp(min=1e-6)
    scaled = (features - mean) / spread
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(scaled @ weight.T + bias) + WEIGHT_DECAY * (weight**2).sum()
        total.backward()
        return total

    optimizer.step(closure)
    learned = weight.detach() / spread
    return learned, bias.detach() - learned @ mean
