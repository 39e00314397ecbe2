"""What models have in common that paint a mask for each class name and are trained on masks: CLIPSeg and CATSeg.

Axes in comments: B images, K part classes, s side of the logits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.build_sam import RANDOM_WEIGHTS_SEED
from ..encoders.frozen import hash_tensors
from ..vocabulary import PartVocabulary
from .frozen import FrozenWeights


def mask_loss(logits: Tensor, labels: Tensor, background_weight: float) -> Tensor:
    """Every class against its own mask: binary cross-entropy, the mean over images, channels and pixels.

    Args:
        logits: float [B, K+1, s, s], background last.
        labels: int64 [B, s, s], 0..K.
        background_weight: factor of the last channel's terms; the mean still counts each of them as one.
    """
    targets = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
    weight = logits.new_ones(logits.shape[1], 1, 1)
    weight[-1] = background_weight
    return F.binary_cross_entropy_with_logits(logits, targets, weight=weight)


class NamedMasks(FrozenWeights):
    """Base of models whose classes are names, each with a logit at each pixel, and one more for the background.

    Checkpoints hold what is trained, the background embedding, and a hash of all that is frozen. A subclass calls
    :meth:`freeze_the_rest` in its constructor.

    Args:
        dim: width of the background embedding: a random one, which is never trained.
        trained: which parts of the model are.
        background_weight: see :func:`mask_loss`.
    """

    background_embedding: Tensor
    prompts: Tensor | None

    def __init__(self, dim: int, trained: Sequence[str], background_weight: float) -> None:
        super().__init__()
        self.trained = tuple(trained)
        self.background_weight = background_weight
        self.vocabulary: PartVocabulary | None = None
        with torch.random.fork_rng(devices=[]):
            # The same in every process, and in every evaluation of the downloaded model.
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            self.register_buffer("background_embedding", torch.randn(dim) * dim**-0.5)
        # A buffer, so that it follows the model to its device.
        self.register_buffer("prompts", None, persistent=False)

    @abstractmethod
    def trained_modules(self) -> list[nn.Module]:
        """Those of ``trained``."""

    @abstractmethod
    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """What :meth:`encode_images` takes."""

    @abstractmethod
    def encode_images(self, images: Any) -> list[Tensor]:
        """Features, each [B, ...]."""

    @abstractmethod
    def encode_names(self) -> Tensor:
        """Embeddings [K+1, ...] of the classes and, last, the background; in ``prompts`` until something can change."""

    @abstractmethod
    def decode(self, features: list[Tensor], prompts: Tensor) -> Tensor:
        """Logits [B, K+1, s, s] in training."""

    @abstractmethod
    def scores(self, features: list[Tensor], prompts: Tensor, classes: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Of one picture's features: probabilities [k, H, W] of ``size`` (H, W), of all K+1 or of ``classes`` [k]."""

    def freeze_the_rest(self) -> None:
        """Call once the submodules exist."""
        self.requires_grad_(False)
        for module in self.trained_modules():
            module.requires_grad_(True)
        self.watch_checkpoints()

    @property
    def device(self) -> torch.device:
        return self.background_embedding.device

    def train(self, mode: bool = True) -> NamedMasks:
        """What is frozen stays in eval mode."""
        super().train(False)
        self.training = mode
        for module in self.trained_modules():
            module.train(mode)
        # Steps of training move them.
        self.prompts = None
        return self

    def set_vocabulary(self, vocabulary: PartVocabulary) -> None:
        """From now on these classes are trained or asked for."""
        self.vocabulary = vocabulary
        self.prompts = None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The loss in training, scores otherwise.

        Args:
            batched_inputs: per image a dict with "image", uint8 RGB [3, h, w]; in training "sem_seg" int64 [h, w]
                (classes 0..K-1, else "ignore_label") and "ignore_label"; at inference optionally "height" and
                "width", the size of the results (else h, w), and "category_id", the object that it is all about.

        Returns:
            In training ``{"loss_mask"}``. Otherwise per image {"sem_seg": float [K+1, H, W]}, probabilities with the
            background last; or, of an input with a category_id, {"sem_seg": float [k, H, W], "part_classes": int64
            [k]}: of this object's own classes only.

        Raises:
            ValueError: no vocabulary is set, or a label is none of its classes.
        """
        if self.vocabulary is None:
            raise ValueError("the model has no class names yet: call set_vocabulary first")
        features = self.encode_images(self.preprocess_image(batched_inputs))
        prompts = self.encode_names()
        if self.training:
            logits = self.decode(features, prompts)
            labels = self.label(batched_inputs, logits.shape[-1])
            return {"loss_mask": mask_loss(logits, labels, self.background_weight)}
        return [
            self.semantic_inference([f[i : i + 1] for f in features], prompts, record, self.vocabulary)
            for i, record in enumerate(batched_inputs)
        ]

    def label(self, batched_inputs: list[dict[str, Any]], size: int) -> Tensor:
        """The part maps as int64 [B, s, s] for logits of side s. What is ignored elsewhere is background here."""
        assert self.vocabulary is not None
        num_classes = len(self.vocabulary)
        labels = []
        for record in batched_inputs:
            part_map, ignored = record["sem_seg"], record["sem_seg"] == record["ignore_label"]
            wrong = part_map[~ignored & ((part_map < 0) | (part_map >= num_classes))]
            if len(wrong):
                raise ValueError(
                    f"{record.get('file_name', 'sem_seg')}: class {int(wrong[0])}; expected 0..{num_classes - 1}, "
                    f"the classes of the vocabulary, or {record['ignore_label']} (ignore)"
                )
            filled = part_map.masked_fill(ignored, num_classes)[None, None].to(self.device)
            # "nearest" would take the pixel to the upper left of the place that the logit is for.
            labels.append(F.interpolate(filled.float(), (size, size), mode="nearest-exact")[:, 0].long())
        return torch.cat(labels)

    @torch.no_grad()
    def semantic_inference(
        self, features: list[Tensor], prompts: Tensor, record: dict[str, Any], vocabulary: PartVocabulary
    ) -> dict[str, Any]:
        """Scores of one picture, whose features are each [1, ...], at the size of its results."""
        output: dict[str, Any] = {}
        own = None
        if "category_id" in record:
            own = torch.tensor(vocabulary.parts_of(record["category_id"]), dtype=torch.int64, device=self.device)
            output["part_classes"] = own
        height = record.get("height", record["image"].shape[1])
        width = record.get("width", record["image"].shape[2])
        if own is None or len(own):
            output["sem_seg"] = self.scores(features, prompts, own, (height, width))
        else:
            output["sem_seg"] = prompts.new_zeros(0, height, width)
        return output

    def compute_frozen_hash(self) -> str:
        return hash_tensors(self.frozen_state().items())

    def frozen_state(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad}

    def check_frozen(self, state_dict: dict[str, Any], prefix: str) -> None:
        super().check_frozen(state_dict, prefix)
        # What is loaded may change them.
        self.prompts = None
