"""WPSSAM: a frozen promptable segmenter, and a trained prompter between its encoder and its decoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from ..encoders import PromptableEncoder, SemanticEncoder, build_encoder, build_semantic, semantic_spec
from ..inference.merge import MASK_THRESHOLD, MERGES, WithinObjectMerge, resize_mask, resize_masks
from ..inference.naming import name_masks, pixel_probability, within_object
from ..inference.select import Selection, select_for_object, select_parts, threshold_before_naming
from ..prompters import PROMPTER_REGISTRY, Prompter
from ..structures import PADDING, Features, Frame, PartTargets, Proposals, input_size
from ..vocabulary import PartVocabulary
from .frozen import FrozenWeights, hash_of

# A checkpoint holds this one of the frozen tensors, which is random in SAM, though the fingerprint covers it too.
FOURIER_MATRIX = "backbone.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# Checkpoints of the first format: the hash was of SAM's weights alone, and modules had other names.
FIRST_HASH_KEY = "frozen_sam_sha256"
FIRST_NAMES = {"teacher.": "backbone.", "decoder.": "backbone.", "prompter.merge.": "prompter.fuse."}


@META_ARCH_REGISTRY.register()
class WPSSAM(FrozenWeights):
    """Weakly supervised part segmentation with SAM (ECCV 2024, arXiv 2407.10131, figure 2).

    A prompter reads the frozen encoder's features and says which parts there are and with which prompts the segmenter
    would cut them out. It learns from tags, points, boxes and masks, each annotation by what it has.

    Args:
        backbone: the frozen promptable encoder.
        semantic: a frozen semantic network beside it; None if there is none, or its features come from a cache.
        semantic_features, semantic_fingerprint: what there is of it, see :class:`wps_sam.encoders.SemanticEncoder`.
        encoder_name: MODEL.SAM.ARCH of the backbone, for messages.
        prompter: the trained part.
        num_classes: C.
        score_threshold, nms_threshold, max_parts: which proposals become parts, see MODEL.INFERENCE.
        merge: a key of ``MERGES``, or "part_map": what the prompter says of each pixel, whatever the masks.
        naming: see MODEL.INFERENCE.NAMING.
        unseen_bias: see MODEL.INFERENCE.UNSEEN_BIAS.
    """

    HASH_KEY, NAME_KEY = "encoder_sha256", "encoder_name"
    FROZEN_NAME = "SAM or semantic network, or on one that sees pictures otherwise"
    FROZEN_KEYS = (
        "MODEL.BACKBONE.NAME, MODEL.SAM.ARCH, MODEL.SAM.WEIGHTS, MODEL.SAM.PADDING, MODEL.PIXEL_MEAN, _STD and "
        "MODEL.SEMANTIC"
    )

    backbone: PromptableEncoder
    prompter: Prompter

    @configurable
    def __init__(
        self,
        *,
        backbone: PromptableEncoder,
        prompter: Prompter,
        num_classes: int,
        semantic: SemanticEncoder | None = None,
        semantic_features: Iterable[str] = (),
        semantic_fingerprint: str = "",
        encoder_name: str = "",
        score_threshold: float = 0.0,
        nms_threshold: float = 1.0,
        max_parts: int = 100,
        merge: str = "semantic",
        naming: float = 0.0,
        unseen_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.semantic = semantic
        self.semantic_fingerprint = semantic_fingerprint
        self.encoder_name = encoder_name
        self.feature_names = (*backbone.spec.features, *semantic_features)
        self.prompter = prompter
        self.num_classes = num_classes
        self.unseen_bias = unseen_bias
        self.vocabulary: PartVocabulary | None = None
        self.score_threshold = score_threshold
        self.thinning: dict[str, Any] = {"nms_threshold": nms_threshold, "max_parts": max_parts}
        self.by_pixel = merge == "part_map"
        self.merge = MERGES["semantic" if self.by_pixel else merge]
        self.naming = naming
        self.watch_checkpoints()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_encoder(cfg)
        semantic = semantic_spec(cfg, backbone.image_size)
        return {
            "backbone": backbone,
            "semantic": build_semantic(cfg, backbone.image_size) if cfg.MODEL.SAM.FEATURES == "live" else None,
            "semantic_features": semantic.features,
            "semantic_fingerprint": semantic.fingerprint,
            "encoder_name": cfg.MODEL.SAM.ARCH,
            "prompter": PROMPTER_REGISTRY.get(cfg.MODEL.PROMPTER.NAME)(cfg, backbone, semantic.features),
            "num_classes": cfg.MODEL.PROMPTER.NUM_CLASSES,
            "score_threshold": cfg.MODEL.INFERENCE.SCORE_THRESHOLD,
            "nms_threshold": cfg.MODEL.INFERENCE.NMS_THRESHOLD,
            "max_parts": cfg.MODEL.INFERENCE.MAX_PARTS,
            "merge": cfg.MODEL.INFERENCE.MERGE,
            "naming": cfg.MODEL.INFERENCE.NAMING,
            "unseen_bias": cfg.MODEL.INFERENCE.UNSEEN_BIAS,
        }

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, parts otherwise.

        Args:
            batched_inputs: per image a dict with "image", uint8 RGB [3, h, w], longest side S, or in its place what
                the feature store has, see :meth:`embed`; in training "instances" with ``gt_classes`` [M],
                ``gt_kinds`` [M] (:class:`wps_sam.structures.LabelKind`) and, as far as a kind needs it, ``gt_boxes``
                [M, 4] xyxy, ``gt_points`` [M, 2] xy in pixels of "image" and ``gt_masks`` (BitMasks [M, h, w]), and
                "tags" int64 [T], classes that are in the picture, and "cropped", whether only a piece of it is seen;
                optionally "height" and "width", the size of the results (else h, w), "category_id", the object
                whose parts alone are asked for, and "confidence", the smallest score of a part, in place of
                MODEL.INFERENCE.SCORE_THRESHOLD and of the rule that what is likelier no part is none.

        Returns:
            In training a dict of named losses, see the prompter. Otherwise per image a dict with "instances"
            (pred_masks bool [K, H, W], pred_boxes, pred_classes, scores, mask_logits [K, E, E]), "sem_seg"
            (float [C+1, H, W], background last; its argmax is the part map) and "frame". With "category_id":
            "part_classes", the classes int64 [k] of that object's parts, and their "sem_seg" float [k, H, W],
            without background: the argmax says which part of the object each pixel would be.
        """
        features, frames = self.embed(batched_inputs)
        if self.training:
            return self.prompter.losses(features, self.label(batched_inputs, frames))
        return self.segment(features, self.prompter.propose(features), batched_inputs, frames)

    def embed(self, batched_inputs: list[dict[str, Any]]) -> tuple[Features, list[Frame]]:
        """What the encoder saw in the pictures, by name, and where each lies in its square.

        Features that inputs bring along, from the feature store, are taken as they are. Such inputs may hold
        "image_size" (h, w) in place of "image"; there is no "image" [B, 3, S, S] among the features then.
        """
        features: dict[str, Tensor] = {}
        if "image" in batched_inputs[0]:
            features["image"], frames = self.preprocess_image(batched_inputs)
        else:
            frames = [self._frame(record) for record in batched_inputs]
        stored = [name for name in self.feature_names if name in batched_inputs[0]]
        if stored:
            for name in stored:
                features[name] = torch.stack([record[name].to(self.device) for record in batched_inputs]).float()
        else:
            # Without pictures the encoder says what is missing.
            features |= self.backbone(features.get("image"))
            if self.semantic is not None:
                features |= self.semantic(torch.stack([self._square(r, f) for r, f in zip(batched_inputs, frames)]))
        return features, frames

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> tuple[Tensor, list[Frame]]:
        """The encoder's input squares [B, 3, S, S], and where each picture lies in its own."""
        frames = [self._frame(record) for record in batched_inputs]
        squares = [self.backbone.preprocess(record["image"].to(self.device))[0] for record in batched_inputs]
        return torch.stack(squares), frames

    def _square(self, record: dict[str, Any], frame: Frame) -> Tensor:
        """The picture in its square, RGB in 0..255, float [3, S, S], grey around it."""
        square = torch.full((3, frame.size, frame.size), 127.5, device=self.device)
        frame.crop(square)[:] = record["image"].to(self.device)
        return square

    def _frame(self, record: dict[str, Any]) -> Frame:
        try:
            return self.backbone.frame(*input_size(record))
        except ValueError as error:
            raise ValueError(f"{record.get('file_name', 'image')}: {error}") from error

    # -- training

    def label(self, batched_inputs: list[dict[str, Any]], frames: list[Frame]) -> list[PartTargets]:
        """The labels of every image, their coordinates continuous in the padded square: pixel 0 spans 0 to 1."""
        targets = []
        for record, frame in zip(batched_inputs, frames):
            instances = record["instances"].to(self.device)
            labels = instances.gt_classes
            boxes = instances.gt_boxes.tensor if instances.has("gt_boxes") else None
            points = instances.gt_points if instances.has("gt_points") else None
            corner = torch.tensor([frame.left, frame.top], dtype=torch.float32, device=self.device)
            if boxes is None:
                boxes = corner.new_zeros(len(labels), 4)
            if points is None:
                points = corner.new_zeros(len(labels), 2)
            targets.append(
                PartTargets(
                    labels=labels,
                    kinds=instances.gt_kinds,
                    boxes=boxes + corner.repeat(2),
                    # Whole numbers are pixel centres there; in the square, as of boxes, they are corners of pixels.
                    points=points + corner + 0.5,
                    masks=covered_shares(instances.gt_masks.tensor, frame, self.backbone.spec.mask_size)
                    if instances.has("gt_masks")
                    else None,
                    tags=record["tags"].to(self.device) if "tags" in record else None,
                    cropped=record.get("cropped", False),
                    part_map=_in_square(record["part_map"].to(self.device), frame) if "part_map" in record else None,
                )
            )
        return targets

    @torch.no_grad()
    def teach(self, geometry: Tensor) -> Tensor:
        """Boxes [M, 4] xyxy or points [M, 2] xy, pixels of the padded square, to the segmenter's tokens [M, T, D]."""
        if geometry.dim() != 2 or geometry.shape[1] not in (2, 4):
            raise ValueError(
                f"expected boxes [M, 4] xyxy or points [M, 2] xy in pixels, got a tensor {tuple(geometry.shape)}"
            )
        return self.backbone.encode_prompts(**{"boxes" if geometry.shape[1] == 4 else "points": geometry})

    # -- inference

    @torch.no_grad()
    def segment(
        self, features: Features, proposals: Proposals, batched_inputs: list[dict[str, Any]], frames: list[Frame]
    ) -> list[dict[str, Any]]:
        """Decodes the selected proposals of all images together, then merges the masks of each."""
        selected = [self.select(proposals, i, record) for i, record in enumerate(batched_inputs)]
        prompts = [proposals.encode(i, of_image.queries) for i, of_image in enumerate(selected)]
        masks = self.backbone.decode(features, prompts)
        results = []
        for i, (record, frame, of_image, predicted) in enumerate(zip(batched_inputs, frames, selected, masks)):
            mask_logits, size = predicted.logits[:, 0], _output_size(record)
            part_map = None
            if proposals.part_map is not None and (self.naming or self.by_pixel):
                part_map = proposals.part_map[i]
            if part_map is not None and self.naming:
                of_image, mask_logits = name_masks(
                    of_image, mask_logits, proposals.logits[i], part_map, self.naming, record.get("confidence")
                )
            of_pixels = None
            if part_map is not None and (self.by_pixel or "category_id" not in record):
                of_pixels = pixel_probability(part_map, frame, *size)
            if "category_id" in record:
                results.append(self.object_inference(of_image, mask_logits, frame, *size, of_pixels))
            else:
                results.append(self.part_inference(of_image, mask_logits, frame, *size, of_pixels))
        return results

    def select(self, proposals: Proposals, index: int, record: dict[str, Any]) -> Selection:
        """The proposals of image ``index`` that are worth decoding for what its input asks."""
        logits = proposals.logits[index]
        boxes = None if proposals.boxes is None else proposals.boxes[index]
        if "category_id" in record:
            part_classes = self._part_classes(record["category_id"])
            thinning = {**self.thinning, "max_parts": 0} if self.by_pixel else self.thinning
            return select_for_object(logits, boxes, part_classes, **thinning)
        if "confidence" not in record:
            return select_parts(logits, boxes, score_threshold=self.score_threshold, **self.thinning)
        named = self.naming if proposals.part_map is not None else 0.0
        threshold = threshold_before_naming(record["confidence"], named)
        return select_parts(logits, boxes, score_threshold=threshold, no_part_competes=False, **self.thinning)

    def _part_classes(self, object_id: int) -> list[int]:
        if self.vocabulary is None:
            raise ValueError("the model does not know which parts are of which object: call set_vocabulary first")
        part_classes = self.vocabulary.parts_of(object_id)
        if not part_classes:
            raise ValueError(f"object {self.vocabulary.object_names[object_id]!r} has no parts to tell apart")
        return part_classes

    def part_inference(
        self,
        selected: Selection,
        mask_logits: Tensor,
        frame: Frame,
        height: int,
        width: int,
        of_pixels: Tensor | None = None,
    ) -> dict[str, Any]:
        """The parts of one image and its part map, one mask after the other.

        ``of_pixels`` [C+1, height, width]: what each pixel is by itself, which decides where masks overlap, or alone.
        """
        merge = self.merge(self.num_classes, height, width, self.device)
        pred_masks = torch.empty(len(mask_logits), height, width, dtype=torch.bool, device=self.device)
        for k, (score, label) in enumerate(zip(selected.scores.tolist(), selected.classes.tolist())):
            probability = resize_mask(mask_logits[k], frame, height, width).sigmoid()
            torch.ge(probability, MASK_THRESHOLD, out=pred_masks[k])
            merge.add(probability, score, label, None if of_pixels is None else of_pixels[label])
        instances = Instances((height, width))
        instances.pred_masks = pred_masks
        instances.pred_boxes = BitMasks(pred_masks).get_bounding_boxes()
        instances.pred_boxes.tensor = instances.pred_boxes.tensor.to(self.device)
        instances.pred_classes = selected.classes
        instances.scores = selected.scores
        instances.mask_logits = mask_logits
        sem_seg = of_pixels if self.by_pixel and of_pixels is not None else merge.part_map()
        return {"instances": instances, "sem_seg": sem_seg, "frame": frame}

    def object_inference(
        self,
        selected: Selection,
        mask_logits: Tensor,
        frame: Frame,
        height: int,
        width: int,
        of_pixels: Tensor | None = None,
    ) -> dict[str, Any]:
        """Which part of one object each pixel would be: only this object's classes compete, nothing is background.

        ``of_pixels`` [C+1, height, width]: what each pixel is by itself, which then decides alone.
        """
        if of_pixels is not None:
            assert self.vocabulary is not None
            parts = within_object(of_pixels, selected.classes.tolist(), self.vocabulary.unseen)
            return {"sem_seg": parts, "part_classes": selected.classes}
        merge = WithinObjectMerge(len(selected.classes), height, width, self.device)
        for logits, of_class in zip(mask_logits, selected.scores):
            merge.add(resize_mask(logits, frame, height, width).sigmoid(), of_class)
        return {"sem_seg": merge.part_map(), "part_classes": selected.classes}

    def set_vocabulary(self, vocabulary: PartVocabulary) -> None:
        """The classes of the data set at hand; a model without text embeddings has those it was trained on.

        Raises:
            ValueError: another number of classes than the model has, or names without a text embedding.
        """
        if self.prompter.takes_names:
            self.num_classes = len(vocabulary)
        elif len(vocabulary) != self.num_classes:
            raise ValueError(
                f"the model has {self.num_classes} classes, not {len(vocabulary)}: only with "
                "MODEL.PROMPTER.CLASSIFIER text can it be asked for others"
            )
        self.prompter.set_vocabulary(vocabulary, self.unseen_bias)
        self.vocabulary = vocabulary

    @torch.no_grad()
    def prompt_boxes(self, batched_inputs: list[dict[str, Any]], boxes: list[Tensor]) -> list[Tensor]:
        """The segmenter asked with given boxes, the ceiling of any prompter that is taught boxes.

        Args:
            batched_inputs: as for ``forward``.
            boxes: per image [M, 4] xyxy in pixels of the original image ("height" x "width").

        Returns:
            Per image mask logits [M, height, width].
        """
        return self._prompt(batched_inputs, boxes)

    @torch.no_grad()
    def prompt_points(self, batched_inputs: list[dict[str, Any]], points: list[Tensor]) -> list[Tensor]:
        """As :meth:`prompt_boxes`, with points [M, 2] xy, of which whole numbers are centres of pixels."""
        return self._prompt(batched_inputs, [of_image + 0.5 for of_image in points])

    def _prompt(self, batched_inputs: list[dict[str, Any]], places: list[Tensor]) -> list[Tensor]:
        features, frames = self.embed(batched_inputs)
        sizes = [_output_size(record) for record in batched_inputs]
        prompts = []
        for of_image, frame, (height, width) in zip(places, frames, sizes):
            corners = of_image.shape[1] // 2
            scale = of_image.new_tensor([frame.width / width, frame.height / height]).repeat(corners)
            offset = of_image.new_tensor([frame.left, frame.top]).repeat(corners)
            prompts.append(self.teach((of_image * scale + offset).float().to(self.device)))
        masks = self.backbone.decode(features, prompts)
        return [resize_masks(m.logits[:, 0], frame, *size) for m, frame, size in zip(masks, frames, sizes)]

    # -- checkpoints

    def compute_frozen_hash(self) -> str:
        backbone = self.backbone.fingerprint()
        if not self.semantic_fingerprint:
            return backbone
        return hashlib.sha256(f"{backbone} {self.semantic_fingerprint}".encode()).hexdigest()

    def frozen_state(self) -> dict[str, Tensor]:
        state = {f"backbone.{key}": value for key, value in self.backbone.state_dict().items()}
        state.pop(FOURIER_MATRIX, None)
        if self.semantic is not None:
            state |= {f"semantic.{key}": value for key, value in self.semantic.state_dict().items()}
        return state

    def check_frozen(self, state_dict: dict[str, Any], prefix: str) -> None:
        for key in list(state_dict):
            for old, new in FIRST_NAMES.items():
                if key.startswith(prefix + old):
                    state_dict[prefix + new + key[len(prefix + old) :]] = state_dict.pop(key)
        saved = state_dict.pop(prefix + FIRST_HASH_KEY, None)
        if saved is None:
            super().check_frozen(state_dict, prefix)
        else:
            self.compare_frozen(hash_of(saved), self.backbone.weights_hash())


def _output_size(record: dict[str, Any]) -> tuple[int, int]:
    height, width = input_size(record)
    return record.get("height", height), record.get("width", width)


def _in_square(part_map: Tensor, frame: Frame) -> Tensor:
    """A part map int64 [h, w] of a picture to that of its square [S, S]."""
    square = torch.full((frame.size, frame.size), PADDING, device=part_map.device)
    frame.crop(square)[:] = part_map
    return square


def covered_shares(masks: Tensor, frame: Frame, size: int) -> Tensor:
    """Masks bool [M, h, w] of a picture to float [M, size, size], the share of each cell of its square they cover."""
    square = masks.new_zeros(len(masks), frame.size, frame.size, dtype=torch.float32)
    frame.crop(square)[:] = masks
    # SAM 3 has 7 pixels to 2 cells: halves of pixels are pooled then.
    pieces = math.lcm(frame.size, size) // frame.size
    for axis in (1, 2) if pieces > 1 else ():
        square = square.repeat_interleave(pieces, dim=axis)
    return F.avg_pool2d(square[:, None], square.shape[-1] // size)[:, 0]
