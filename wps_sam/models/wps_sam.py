"""WPSSAM: a frozen SAM, a trained prompter between its encoder and its decoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..structures import Frame, PartTargets, PartVocabulary, PromptPrediction, input_size
from ..prompters.losses import SetCriterion, build_criterion
from ..encoders.mask_decoder import FrozenMaskDecoder
from ..prompters.text_classifier import TextClassifier
from ..prompters.prompter import build_prompter
from ..encoders.sam import build_sam, hash_tensors
from ..inference.merge import (
    MASK_THRESHOLD,
    MERGES,
    WithinObjectMerge,
    keep_queries,
    resize_mask,
    resize_masks,
)
from ..encoders.teacher import PromptTeacher

logger = logging.getLogger(__name__)

FROZEN = ("backbone.", "teacher.", "decoder.")
FOURIER_MATRIX = "teacher.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
FROZEN_HASH = "frozen_sam_sha256"


class KeptQueries(NamedTuple):
    """The K queries of one image that are decoded.

    ``queries`` int64 [K]; ``scores`` [K] and ``classes`` int64 [K], or, where the c parts of one object are asked for,
    ``scores`` [K, c] and those parts' ``classes`` [c].
    """

    queries: Tensor
    scores: Tensor
    classes: Tensor


@META_ARCH_REGISTRY.register()
class WPSSAM(nn.Module):
    """Weakly supervised part segmentation with SAM (ECCV 2024, arXiv 2407.10131, figure 2).

    A prompter reads the frozen image embedding and says which parts there are and with which prompts SAM would
    cut them out. It learns from what SAM's prompt encoder makes of the labelled boxes or points.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        teacher: PromptTeacher,
        decoder: FrozenMaskDecoder,
        prompter: nn.Module,
        criterion: SetCriterion,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        padding: str = "bottom_right",
        score_threshold: float = 0.0,
        nms_threshold: float = 1.0,
        max_parts: int = 100,
        point_radius: float = 8.0,
        merge: str = "semantic",
        unseen_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.teacher = teacher
        self.decoder = decoder
        self.prompter = prompter
        self.criterion = criterion
        self.num_classes = num_classes
        self.unseen_bias = unseen_bias
        self.vocabulary: PartVocabulary | None = None
        self.padding = padding
        self.selection: dict[str, Any] = {
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "max_parts": max_parts,
        }
        self.point_radius = point_radius
        self.merge = MERGES[merge]
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self._frozen_hash: str | None = None
        self._register_state_dict_hook(_drop_frozen)
        self._register_load_state_dict_pre_hook(self._check_and_fill_frozen)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        sam = build_sam(
            cfg.MODEL.SAM.ARCH, cfg.MODEL.SAM.WEIGHTS, components=("prompt_encoder", "mask_decoder")
        )
        if not cfg.MODEL.SAM.WEIGHTS:
            logger.warning("MODEL.SAM.WEIGHTS is empty: SAM has random weights, and its masks mean nothing")
        teacher = PromptTeacher(sam.prompt_encoder)
        return {
            "backbone": build_backbone(cfg),
            "teacher": teacher,
            "decoder": FrozenMaskDecoder(sam.mask_decoder),
            "prompter": build_prompter(cfg, teacher.encode),
            "criterion": build_criterion(cfg),
            "num_classes": cfg.MODEL.PROMPTER.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "padding": cfg.MODEL.SAM.PADDING,
            "score_threshold": cfg.MODEL.INFERENCE.SCORE_THRESHOLD,
            "nms_threshold": cfg.MODEL.INFERENCE.NMS_THRESHOLD,
            "max_parts": cfg.MODEL.INFERENCE.MAX_PARTS,
            "point_radius": cfg.MODEL.PROMPTER.STRIDE,
            "merge": cfg.MODEL.INFERENCE.MERGE,
            "unseen_bias": cfg.MODEL.INFERENCE.UNSEEN_BIAS,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, parts otherwise.

        Args:
            batched_inputs: per image a dict with "image", uint8 RGB [3, h, w], longest side S, or in its place what
                the feature cache has, see :meth:`embed`; in training "instances" with ``gt_classes`` [M] and
                ``gt_boxes`` [M, 4] xyxy or ``gt_points`` [M, 2] xy in pixels of "image"; optionally "height" and
                "width", the size of the results (else h, w), and "category_id", the object whose parts alone are
                asked for.

        Returns:
            In training ``{"loss_class", "loss_prompt"}``. Otherwise per image a dict with "instances"
            (pred_masks bool [K, H, W], pred_boxes, pred_classes, scores, mask_logits [K, S/4, S/4]), "sem_seg"
            (float [C+1, H, W], background last; its argmax is the part map) and "frame". With "category_id":
            "part_classes", the classes int64 [k] of that object's parts, and their "sem_seg" float [k, H, W],
            without background: the argmax says which part of the object each pixel would be.
        """
        image_embedding, images, frames = self.embed(batched_inputs)
        prediction = self.prompter(image_embedding, images)
        if self.training:
            return self.criterion(prediction, self.label(batched_inputs, frames))
        return self.segment(image_embedding, prediction, batched_inputs, frames)

    def embed(self, batched_inputs: list[dict[str, Any]]) -> tuple[Tensor, Tensor | None, list[Frame]]:
        """What SAM sees in the pictures: embeddings [B, 256, S/16, S/16], images [B, 3, S, S], and where each lies.

        An "image_embedding" that an input brings along, from the feature cache, is taken as it is. Such inputs may
        hold "image_size" (h, w) in place of "image"; there are no images then, but None.
        """
        images, frames = None, [self._frame(record) for record in batched_inputs]
        if "image" in batched_inputs[0]:
            images, _ = self.preprocess_image(batched_inputs)
        if "image_embedding" in batched_inputs[0]:
            cached = [record["image_embedding"].to(self.device) for record in batched_inputs]
            return torch.stack(cached).float(), images, frames
        return self.backbone(images)["image_embedding"], images, frames

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> tuple[Tensor, list[Frame]]:
        """Normalises and pads to one square: images [B, 3, S, S], and where each lies in it."""
        squares, frames = [], []
        for record in batched_inputs:
            image, frame = record["image"].to(self.device), self._frame(record)
            if self.padding == "center":
                # The authors' way: black borders on all sides, normalised with the image.
                squares.append((_pad(image.float(), frame) - self.pixel_mean) / self.pixel_std)
            else:
                squares.append(_pad((image.float() - self.pixel_mean) / self.pixel_std, frame))
            frames.append(frame)
        return torch.stack(squares), frames

    def _frame(self, record: dict[str, Any]) -> Frame:
        size = self.backbone.padding_constraints["square_size"]
        height, width = input_size(record)
        if max(height, width) > size:
            raise ValueError(
                f"{record.get('file_name', 'image')}: {width}x{height} does not fit the {size}x{size} square; "
                f"resize the longest side to {size} first"
            )
        if self.padding == "center":
            return Frame(size, height, width, top=(size - height) // 2, left=(size - width) // 2)
        return Frame(size, height, width)

    def label(self, batched_inputs: list[dict[str, Any]], frames: list[Frame]) -> list[PartTargets]:
        """The weak labels as classes, coordinates in the padded square, and the teacher's tokens."""
        targets = []
        for record, frame in zip(batched_inputs, frames):
            instances = record["instances"].to(self.device)
            geometry = instances.gt_boxes.tensor if instances.has("gt_boxes") else instances.gt_points
            offset = geometry.new_tensor([frame.left, frame.top]).repeat(geometry.shape[1] // 2)
            geometry = geometry + offset
            targets.append(PartTargets(instances.gt_classes, self.teach(geometry), geometry))
        return targets

    def teach(self, geometry: Tensor) -> Tensor:
        """Boxes [M, 4] xyxy or points [M, 2] xy, pixels of the padded square, to teacher tokens [M, 2, 256]."""
        return self.teacher(geometry)

    def decode(self, image_embedding: Tensor, tokens: Tensor) -> Tensor:
        """Embedding [1, 256, S/16, S/16] and prompt tokens [K, 2, 256] to mask logits [K, S/4, S/4]."""
        return self.decode_batch(image_embedding, [tokens])[0]

    def decode_batch(self, image_embedding: Tensor, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings [B, 256, S/16, S/16] and each image's tokens [K_i, 2, 256] to its mask logits [K_i, S/4, S/4]."""
        return self.decoder(image_embedding, tokens, *self.teacher.dense_prompt())

    @torch.no_grad()
    def segment(
        self,
        image_embedding: Tensor,
        prediction: PromptPrediction,
        batched_inputs: list[dict[str, Any]],
        frames: list[Frame],
    ) -> list[dict[str, Any]]:
        """Decodes the kept queries of all images together, then merges the masks of each."""
        kept = [self.keep(prediction, i, r.get("category_id")) for i, r in enumerate(batched_inputs)]
        tokens = [prediction.tokens[i, of_image.queries] for i, of_image in enumerate(kept)]
        masks = self.decode_batch(image_embedding, tokens)
        results = []
        for record, frame, of_image, mask_logits in zip(batched_inputs, frames, kept, masks):
            merge = self.tell_apart if "category_id" in record else self.cut_out
            results.append(merge(of_image, mask_logits, frame, *_output_size(record)))
        return results

    def keep(self, prediction: PromptPrediction, index: int, object_id: int | None) -> KeptQueries:
        """The queries of image ``index`` that are worth decoding; those of one object's parts where it is given."""
        boxes = _boxes(prediction, index, self.point_radius)
        if object_id is None:
            return KeptQueries(*keep_queries(prediction.logits[index], boxes, **self.selection))
        part_classes = self._part_classes(object_id)
        logits = prediction.logits[index][:, [*part_classes, -1]]
        queries, _, _ = keep_queries(logits, boxes, **self.selection, only_parts=False)
        scores = logits[queries].float().softmax(-1)[:, :-1]
        return KeptQueries(queries, scores, torch.tensor(part_classes, device=self.device))

    def _part_classes(self, object_id: int) -> list[int]:
        if self.vocabulary is None:
            raise ValueError("the model does not know which parts are of which object: call set_vocabulary first")
        part_classes = self.vocabulary.parts_of(object_id)
        if not part_classes:
            raise ValueError(f"object {self.vocabulary.object_names[object_id]!r} has no parts to tell apart")
        return part_classes

    def cut_out(
        self, kept: KeptQueries, mask_logits: Tensor, frame: Frame, height: int, width: int
    ) -> dict[str, Any]:
        """The parts of one image and its part map, one mask after the other."""
        merge = self.merge(self.num_classes, height, width, self.device)
        pred_masks = torch.empty(len(mask_logits), height, width, dtype=torch.bool, device=self.device)
        for k, (score, label) in enumerate(zip(kept.scores.tolist(), kept.classes.tolist())):
            probability = resize_mask(mask_logits[k], frame, height, width).sigmoid()
            torch.ge(probability, MASK_THRESHOLD, out=pred_masks[k])
            merge.add(probability, score, label)
        instances = Instances((height, width))
        instances.pred_masks = pred_masks
        instances.pred_boxes = BitMasks(pred_masks).get_bounding_boxes()
        instances.pred_boxes.tensor = instances.pred_boxes.tensor.to(self.device)
        instances.pred_classes = kept.classes
        instances.scores = kept.scores
        instances.mask_logits = mask_logits
        return {"instances": instances, "sem_seg": merge.part_map(), "frame": frame}

    def tell_apart(
        self, kept: KeptQueries, mask_logits: Tensor, frame: Frame, height: int, width: int
    ) -> dict[str, Any]:
        """Which part of one object each pixel would be: only this object's classes compete, nothing is background."""
        merge = WithinObjectMerge(len(kept.classes), height, width, self.device)
        for logits, of_class in zip(mask_logits, kept.scores):
            merge.add(resize_mask(logits, frame, height, width).sigmoid(), of_class)
        return {"sem_seg": merge.part_map(), "part_classes": kept.classes}

    def set_vocabulary(self, vocabulary: PartVocabulary) -> None:
        """The classes of the data set at hand; a model without text embeddings has those it was trained on.

        Raises:
            ValueError: another number of classes than the model has, or names without a text embedding.
        """
        classifier = getattr(self.prompter, "classifier", None)
        if isinstance(classifier, TextClassifier):
            bias = [self.unseen_bias * (c in vocabulary.unseen) for c in range(len(vocabulary))]
            classifier.set_names(vocabulary.names, bias)
            self.num_classes = len(vocabulary)
        elif len(vocabulary) != self.num_classes:
            raise ValueError(
                f"the model has {self.num_classes} classes, not {len(vocabulary)}: only with "
                "MODEL.PROMPTER.CLASSIFIER text can it be asked for others"
            )
        self.vocabulary = vocabulary

    @torch.no_grad()
    def prompt_boxes(self, batched_inputs: list[dict[str, Any]], boxes: list[Tensor]) -> list[Tensor]:
        """SAM asked with given boxes, the ceiling of any prompter.

        Args:
            batched_inputs: as for ``forward``.
            boxes: per image [M, 4] xyxy in pixels of the original image ("height" x "width").

        Returns:
            Per image mask logits [M, height, width].
        """
        image_embedding, _, frames = self.embed(batched_inputs)
        sizes = [_output_size(record) for record in batched_inputs]
        tokens = []
        for of_image, frame, (height, width) in zip(boxes, frames, sizes):
            scale = of_image.new_tensor([frame.width / width, frame.height / height]).repeat(2)
            offset = of_image.new_tensor([frame.left, frame.top]).repeat(2)
            tokens.append(self.teach((of_image * scale + offset).float().to(self.device)))
        masks = self.decode_batch(image_embedding, tokens)
        return [resize_masks(m, frame, *size) for m, frame, size in zip(masks, frames, sizes)]

    def frozen_hash(self) -> str:
        """SHA-256 of SAM's weights; a checkpoint only fits the SAM it was trained on."""
        if self._frozen_hash is None:
            states = {
                "backbone": self.backbone.frozen_state(),
                "teacher": self.teacher.state_dict(),
                "decoder": self.decoder.state_dict(),
            }
            self._frozen_hash = hash_tensors(
                (f"{name}.{key}", value)
                for name, state in states.items()
                for key, value in sorted(state.items())
            )
        return self._frozen_hash

    def _check_and_fill_frozen(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        """Before loading: a checkpoint has no SAM of its own, so ours must be the one it was trained on."""
        trained_on = state_dict.pop(prefix + FROZEN_HASH, None)
        if trained_on is not None and bytes(trained_on.tolist()).hex() != self.frozen_hash():
            raise ValueError(
                f"this checkpoint was trained on another SAM (weights {bytes(trained_on.tolist()).hex()[:12]}..., "
                f"here {self.frozen_hash()[:12]}...): set MODEL.SAM.ARCH and MODEL.SAM.WEIGHTS to the same SAM"
            )
        for part in FROZEN:
            module = getattr(self, part[:-1])
            for key, value in module.state_dict().items():
                state_dict.setdefault(prefix + part + key, value)
        self._frozen_hash = None


def _drop_frozen(module: WPSSAM, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """After saving: keeps the trained weights, SAM's hash and its (once random) Fourier matrix."""
    for key in list(state_dict):
        name = key[len(prefix) :]
        if key.startswith(prefix) and name.startswith(FROZEN) and name != FOURIER_MATRIX:
            del state_dict[key]
    state_dict[prefix + FROZEN_HASH] = torch.tensor(list(bytes.fromhex(module.frozen_hash())), dtype=torch.uint8)


def _pad(image: Tensor, frame: Frame) -> Tensor:
    right = frame.size - frame.width - frame.left
    bottom = frame.size - frame.height - frame.top
    return F.pad(image, (frame.left, right, frame.top, bottom))


def _output_size(record: dict[str, Any]) -> tuple[int, int]:
    height, width = input_size(record)
    return record.get("height", height), record.get("width", width)


def _boxes(prediction: PromptPrediction, index: int, radius: float) -> Tensor | None:
    """[N, 4] by which an image's queries can be thinned; None where the prompter reads out no place.

    A point stands for the box of ``radius`` pixels around it.
    """
    if prediction.geometry is None:
        return None
    geometry = prediction.geometry[index]
    return geometry if geometry.shape[1] == 4 else _around(geometry, radius)


def _around(points: Tensor, radius: float) -> Tensor:
    """Points [N, 2] to small boxes [N, 4], so that proposals of one place can be thinned."""
    return torch.cat([points - radius, points + radius], dim=-1)
