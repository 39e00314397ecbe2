"""A trained model as one graph of fixed shapes: a picture in its square in, a fixed number of parts and a part map out.

Where the model picks what is worth decoding, and so has lists of any length, the graph has K places of which some stay
empty. So it needs no operator that some runtime lacks. Axes: S side of the square in pixels, K places for parts, N
proposals, C classes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from ..encoders.build_sam import SAM_ARCHS
from ..encoders.fast_encoder import without_acceleration
from ..encoders.sam import SAMEncoder
from ..inference.merge import MASK_THRESHOLD
from ..inference.naming import agreed_probability
from ..inference.select import threshold_before_naming
from ..models.wps_sam import WPSSAM

# A confidence below 0 asks for the rule of the evaluation.
BY_THE_RULE = -1.0


class PartGraph(nn.Module):
    """A :class:`wps_sam.models.wps_sam.WPSSAM` that takes one picture, without lists and loops over what was found.

    Args:
        model: is copied; its names are set.
        proposals: K, how many proposals are decoded at most.

    Raises:
        ValueError: the model has parts that no graph can be made of.
    """

    model: WPSSAM
    backbone: SAMEncoder

    def __init__(self, model: nn.Module, proposals: int) -> None:
        super().__init__()
        if not isinstance(model, WPSSAM):
            raise ValueError(f"export: the model is {type(model).__name__}; expected WPSSAM")
        if not isinstance(model.backbone, SAMEncoder):
            raise ValueError(
                f"export: the model stands on MODEL.SAM.ARCH {model.encoder_name}, of which no file can be made yet; "
                f"expected one of {', '.join(SAM_ARCHS)}"
            )
        if not model.by_pixel and model.merge.__name__ != "SemanticMerge":
            raise ValueError("MODEL.INFERENCE.MERGE is 'authors'; expected semantic or part_map for an export")
        copied = copy.deepcopy(model)
        backbone = copied.backbone
        assert isinstance(backbone, SAMEncoder) and backbone.image_encoder is not None, "built with FEATURES live"
        backbone.image_encoder = without_acceleration(backbone.image_encoder)
        backbone.precision = "fp32"
        self.model, self.backbone, self.proposals = copied, backbone, proposals
        self.eval()
        self.image_size = backbone.image_size

    @property
    def output_names(self) -> list[str]:
        """Of what :meth:`forward` returns; ``pixel_logits`` of models that use what their dense head says."""
        names = ["mask_logits", "scores", "classes", "boxes", "part_map"]
        return [*names, "pixel_logits"] if self._asks_pixels else names

    @property
    def _asks_pixels(self) -> bool:
        weights = getattr(self.model.prompter, "weights", {})
        return bool(weights.get("part")) and bool(self.model.naming or self.model.by_pixel)

    @torch.no_grad()
    def forward(self, image: Tensor, size: Tensor, confidence: Tensor) -> tuple[Tensor, ...]:
        """The parts of one picture.

        Args:
            image: uint8 RGB [1, 3, S, S], scaled so that its longest side is S; what lies around it is not looked at.
            size: int64 [2], height and width in pixels of the picture in the square.
            confidence: float32 [1], the smallest score of a part; below 0 the rule of the evaluation, see
                :class:`wps_sam.predictor.PartPredictor`.

        Returns:
            ``mask_logits`` float32 [K, S/4, S/4] of the square, the surest part first; ``scores`` float32 [K], 0 where
            there is no part; ``classes`` int64 [K], C where there is none; ``boxes`` float32 [K, 4] xyxy of the masks
            in pixels of the square; ``part_map`` int64 [S, S], the class of each pixel, C for background and beside
            the picture; and where the model has them ``pixel_logits`` float32 [C+1, S/4, S/4], what each cell of the
            square is by itself, background last.
        """
        features, inside = self._look(image, size)
        proposals = self.model.prompter.propose(features)
        logits = proposals.logits[0]
        by_rule = confidence < 0
        part_map = proposals.part_map[0] if self._asks_pixels and proposals.part_map is not None else None
        naming = self.model.naming if part_map is not None else 0.0
        # Raised to a power, a number below 0 would be none.
        asked = threshold_before_naming(confidence.clamp(min=0), naming)
        queries, scores, classes = keep_parts(
            logits,
            None if proposals.boxes is None else proposals.boxes[0],
            by_rule=by_rule,
            threshold=torch.where(by_rule, self.model.score_threshold, asked),
            nms_threshold=self.model.thinning["nms_threshold"],
            count=min(self.proposals, len(logits)),
        )
        masks = self.backbone.decode(features, [proposals.encode(0, queries)])[0].logits[:, 0].float()
        quarter = (self.image_size // 4, self.image_size // 4)
        if part_map is not None:
            part_map = F.interpolate(part_map[None].float(), quarter, mode="bilinear", align_corners=False)[0]
        if part_map is not None and naming:
            both = agreed_probability(logits[queries], masks, part_map, naming)
            named, name_of = likeliest(both, by_rule)
            fits = (scores > 0) & (name_of < len(part_map) - 1) & (named >= confidence)
            scores, order = torch.where(fits, named, torch.zeros_like(named)).topk(len(named))
            classes = torch.where(scores > 0, name_of[order], len(part_map) - 1)
            masks = masks[order]
        found = (masks, scores, classes, self._boxes(masks, scores), self._paint(masks, scores, classes, part_map))
        painted = torch.where(inside, found[-1], logits.shape[1] - 1)
        return (*found[:-1], painted) if part_map is None else (*found[:-1], painted, part_map)

    def _look(self, image: Tensor, size: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The features, and which pixels of the square are the picture's, bool [S, S]."""
        backbone, semantic = self.backbone, self.model.semantic
        steps = torch.arange(self.image_size)
        start = (self.image_size - size) // 2 if backbone.padding == "center" else torch.zeros_like(size)
        rows, columns = ((steps >= start[i]) & (steps < start[i] + size[i]) for i in range(2))
        inside = rows[:, None] & columns[None]
        pixels = image.float()
        mean, std = backbone.pixel_mean, backbone.pixel_std
        if backbone.padding == "center":
            square = (torch.where(inside, pixels, 0.0) - mean) / std
        else:
            square = torch.where(inside, (pixels - mean) / std, 0.0)
        features = {"image": square, **backbone.encode(square)}
        if semantic is not None:
            features |= semantic(torch.where(inside, pixels, 127.5))
        return features, inside

    def _boxes(self, masks: Tensor, scores: Tensor) -> Tensor:
        """[K, 4] xyxy in pixels of the square; zeros where there is no part or an empty mask."""
        covered = (masks >= 0) & (scores > 0)[:, None, None]
        steps = torch.arange(masks.shape[-1])
        sides = []
        for along in (covered.any(1), covered.any(2)):
            low = torch.where(along, steps, masks.shape[-1]).amin(1)
            high = torch.where(along, steps + 1, 0).amax(1)
            sides.append((torch.minimum(low, high), high))
        (x0, x1), (y0, y1) = sides
        return torch.stack([x0, y0, x1, y1], dim=1).float() * 4

    def _paint(self, masks: Tensor, scores: Tensor, classes: Tensor, part_map: Tensor | None) -> Tensor:
        """The part map int64 [S, S], as :class:`wps_sam.inference.merge.SemanticMerge` makes it: of all masks that
        cover a pixel the one with the largest score * p(mask) * p(class of the pixel)."""
        pixels = None
        background = self.model.num_classes
        if part_map is not None:
            pixels = self._enlarge(part_map).softmax(0)
            if self.model.by_pixel:
                return pixels.argmax(0)
        probability = self._enlarge(masks).sigmoid()
        found = torch.where(probability >= MASK_THRESHOLD, probability * scores[:, None, None], 0.0)
        if pixels is not None:
            found = found * pixels.clamp(min=1e-6)[classes]
        best, by = found.max(0)
        return torch.where(best > 0, classes[by], background)

    def _enlarge(self, cells: Tensor) -> Tensor:
        """[n, S/4, S/4] to [n, S, S]."""
        size = (self.image_size, self.image_size)
        return F.interpolate(cells[None], size, mode="bilinear", align_corners=False)[0]


def likeliest(probability: Tensor, by_rule: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest class of each proposal and its probability [K], of [K, C+1]; "no part" counts ``by_rule`` [1]."""
    no_part = torch.where(by_rule, probability[:, -1:], 0.0)
    scores, classes = torch.cat([probability[:, :-1], no_part], dim=1).max(-1)
    return scores, classes


def keep_parts(
    logits: Tensor,
    boxes: Tensor | None,
    *,
    by_rule: Tensor,
    threshold: Tensor,
    nms_threshold: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`wps_sam.inference.select.select_parts`, in ``count`` places.

    Args:
        logits, boxes, nms_threshold: as there.
        by_rule: bool [1], whether "no part" competes.
        threshold: float [1].

    Returns:
        ``queries`` int64 [count], ``scores`` [count], 0 where no proposal is left, and ``classes`` int64 [count], C
        there.
    """
    no_part = logits.shape[1] - 1
    scores, classes = likeliest(logits.float().softmax(-1), by_rule)
    left = torch.where((classes != no_part) & (scores >= threshold), scores, torch.zeros_like(scores))
    if boxes is None or nms_threshold >= 1:
        kept, queries = left.topk(count)
        return queries, kept, torch.where(kept > 0, classes[queries], no_part)
    # One after the other, the surest takes away its doubles: non-maximum suppression in as many steps as there are
    # places, whatever the picture.
    numbers = torch.arange(len(left))
    chosen: list[Tensor] = []
    kept_scores: list[Tensor] = []
    for _ in range(count):
        score, query = left.max(0, keepdim=True)
        double = (box_iou(boxes[query].float(), boxes.float())[0] > nms_threshold) & (classes == classes[query])
        left = torch.where(double | (numbers == query), 0.0, left)
        chosen.append(query)
        kept_scores.append(score)
    queries, kept = torch.cat(chosen), torch.cat(kept_scores)
    return queries, kept, torch.where(kept > 0, classes[queries], no_part)


def example_inputs(image_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of :meth:`PartGraph.forward` by which it is recorded."""
    grey = torch.full((1, 3, image_size, image_size), 127, dtype=torch.uint8)
    size = torch.tensor([image_size, image_size * 3 // 4])
    return grey, size, torch.tensor([BY_THE_RULE])
