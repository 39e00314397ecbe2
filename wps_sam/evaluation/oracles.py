"""Models that see the truth: a floor and a ceiling for every method that has to find the boxes itself.

They take the model's inputs and give the model's outputs, so the ordinary evaluators score them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from wps_sam.evaluation.ground_truth import GroundTruth, Record, annotation_box
from wps_sam.evaluation.protocols import PartColumn, ReportRow, register_row

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

Model = Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]
Point = Callable[[Mapping[str, Any], int, int], tuple[float, float] | None]
PromptMasks = Callable[[Sequence[Mapping[str, Any]], list[torch.Tensor]], Sequence[torch.Tensor]]


class _PlaceOracle(nn.Module):
    """True classes and places of every picture, boxes unless a child says otherwise; what is drawn there is up to it.

    Annotations without a place, such as a box of no area, and crowds, which are no single part, are left out.
    """

    PLACE_COLUMNS: ClassVar[int] = 4

    def __init__(self, ground_truth: GroundTruth) -> None:
        super().__init__()
        if not ground_truth.has_background:
            raise ValueError(
                f"{ground_truth.dataset_name}: TEST.ORACLES needs a data set with boxes of its parts and a "
                "background; this one has only part maps"
            )
        self._ground_truth = ground_truth

    def _record(self, model_input: Mapping[str, Any]) -> Record:
        return self._ground_truth.records[self._ground_truth.position(model_input)]

    def _places_and_classes(self, record: Record) -> tuple[torch.Tensor, torch.Tensor]:
        """What :meth:`_place` says of the parts, float32 [M, PLACE_COLUMNS], and their classes int64 [M]."""
        parts = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        found = [(place, a["category_id"]) for a in parts if (place := self._place(a, record)) is not None]
        places = torch.tensor([place for place, _ in found], dtype=torch.float32).reshape(-1, self.PLACE_COLUMNS)
        return places, torch.tensor([category for _, category in found], dtype=torch.int64)

    def _place(self, annotation: Mapping[str, Any], record: Record) -> tuple[float, ...] | None:
        """The box xyxy in pixels of the original picture, cut off at its border; None where nothing is left."""
        box = annotation_box(annotation)
        if box is None:
            return None
        x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
        x1, y1 = min(box[2], float(record["width"])), min(box[3], float(record["height"]))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def _output(
        self, masks: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor, part_map: torch.Tensor
    ) -> dict[str, Any]:
        """The model's output dict from pred_masks bool [M, H, W] and a part map int64 [H, W], C = background."""
        height, width = part_map.shape
        instances = Instances((height, width))
        instances.pred_masks = masks
        instances.pred_boxes = Boxes(boxes.to(masks.device))
        instances.pred_classes = classes.to(masks.device)
        instances.scores = torch.ones(len(classes), device=masks.device)
        sem_seg = torch.zeros((self._ground_truth.num_classes + 1, height, width), device=masks.device)
        sem_seg.scatter_(0, part_map[None].to(masks.device), 1.0)
        return {"instances": instances, "sem_seg": sem_seg}


register_row(
    ReportRow(
        name="oracle_filled_box",
        note="the true boxes filled in: the floor",
        columns=(PartColumn("IoU, filled box", "IoU", order=4),),
        group_means=("mIoU",),
    )
)


class FilledBoxOracle(_PlaceOracle):
    """``oracle_filled_box``: every true box filled with its true class, the floor that any mask must beat.

    In the part map the smaller of two boxes wins, of equal ones the later annotation.

    Args:
        ground_truth: of the data set whose pictures come in.
    """

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One {"instances", "sem_seg"} an input, at original resolution, as the model gives them.

        Raises:
            ValueError: names a file that the data set does not have.
        """
        return [self._paint(self._record(model_input)) for model_input in batched_inputs]

    def _paint(self, record: Record) -> dict[str, Any]:
        """The model's output dict of one picture."""
        height, width = record["height"], record["width"]
        boxes, classes = self._places_and_classes(record)
        masks = torch.zeros((len(boxes), height, width), dtype=torch.bool)
        part_map = torch.full((height, width), self._ground_truth.num_classes, dtype=torch.int64)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist()):
            mask[_pixels(y0, y1, height), _pixels(x0, x1, width)] = True
        areas = [-(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes.tolist()]
        for k in sorted(range(len(boxes)), key=areas.__getitem__):
            part_map[masks[k]] = classes[k]
        return self._output(masks, boxes, classes, part_map)


def _pixels(low: float, high: float, size: int) -> slice:
    """The pixels of one axis whose centres lie in [low, high); at least the one that holds the middle."""
    first, end = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if first >= end:
        first = min(int((low + high) / 2), size - 1)
        end = first + 1
    return slice(first, end)


register_row(
    ReportRow(
        name="oracle_box_prompt",
        note="SAM prompted with the true boxes: the ceiling",
        columns=(PartColumn("IoU, box prompt", "IoU", order=3),),
        group_means=("mIoU",),
    )
)


class BoxPromptOracle(_PlaceOracle):
    """``oracle_box_prompt``: SAM prompted with every true box, the ceiling of any method that predicts prompts.

    In the part map a pixel has the class of the surest mask, and background where no mask has 0.5 or more.

    Args:
        ground_truth: of the data set whose pictures come in.
        prompt_masks: gives masks for boxes. Called with inputs and, for each, its boxes float32 [M, 4], xyxy
            in pixels of the original picture, M >= 1; returns for each the mask logits float [M, H, W] at original
            resolution. The WPSSAM model's ``prompt_boxes`` is one.
    """

    def __init__(self, ground_truth: GroundTruth, prompt_masks: PromptMasks) -> None:
        super().__init__(ground_truth)
        # Not a submodule: the model stays its owner's, whatever becomes of this oracle.
        self._prompt_masks = prompt_masks

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One {"instances", "sem_seg"} an input, at original resolution, as the model gives them.

        Raises:
            ValueError: names a file that the data set does not have, or whose masks have another size.
        """
        records = [self._record(model_input) for model_input in batched_inputs]
        prompts_and_classes = [self._places_and_classes(record) for record in records]
        # A picture without parts has nothing to prompt with.
        asked = [i for i, (boxes, _) in enumerate(prompts_and_classes) if len(boxes)]
        logits: dict[int, torch.Tensor] = {}
        if asked:
            answers = self._prompt_masks([batched_inputs[i] for i in asked], [prompts_and_classes[i][0] for i in asked])
            logits = dict(zip(asked, answers))
        outputs = []
        for i, (record, (boxes, classes)) in enumerate(zip(records, prompts_and_classes)):
            expected = (len(boxes), record["height"], record["width"])
            of_image = logits.get(i, torch.zeros(expected))
            if tuple(of_image.shape) != expected:
                raise ValueError(
                    f"{record['file_name']}: expected mask logits {list(expected)}, got {list(of_image.shape)}"
                )
            outputs.append(self._paint(of_image, classes))
        return outputs

    def _paint(self, logits: torch.Tensor, classes: torch.Tensor) -> dict[str, Any]:
        """The model's output dict from mask logits float [M, H, W] and their classes."""
        background = self._ground_truth.num_classes
        part_map = torch.full(logits.shape[1:], background, dtype=torch.int64, device=logits.device)
        if len(logits):
            # The sigmoid is monotonic: the surest mask and the 0.5 can both be read off the logits.
            best, surest = logits.max(dim=0)
            part_map = torch.where(best >= 0, classes.to(logits.device)[surest], part_map)
        masks = logits >= 0
        return self._output(masks, BitMasks(masks).get_bounding_boxes().tensor, classes, part_map)


register_row(
    ReportRow(
        name="oracle_point_prompt",
        note="SAM prompted with a point inside every true part: the ceiling of models that learn points",
        columns=(PartColumn("IoU, point prompt", "IoU", order=3),),
        group_means=("mIoU",),
    )
)


class PointPromptOracle(BoxPromptOracle):
    """``oracle_point_prompt``: as :class:`BoxPromptOracle`, but SAM is asked with one point for every true part.

    Args:
        ground_truth: of the data set whose pictures come in.
        prompt_masks: as there, but for points float32 [M, 2], xy of pixel centres; ``prompt_points`` of the model.
        point: of an annotation (height, width) to its point (x, y), or None.
    """

    PLACE_COLUMNS = 2

    def __init__(self, ground_truth: GroundTruth, prompt_masks: PromptMasks, point: Point) -> None:
        super().__init__(ground_truth, prompt_masks)
        self._point = point

    def _place(self, annotation: Mapping[str, Any], record: Record) -> tuple[float, ...] | None:
        return self._point(annotation, record["height"], record["width"])


register_row(
    ReportRow(
        name="oracle_true_names",
        note="the model's masks under their true names: what is lost by place and cut alone",
        columns=(PartColumn("IoU, true names", "IoU", order=5),),
        group_means=("mIoU",),
    )
)


class TrueNamesOracle(nn.Module):
    """``oracle_true_names``: the model's own masks, each under the name of the part that most of its pixels show.

    A mask most of whose pixels are background is left out. In the part map the surest mask is on top.

    Args:
        ground_truth: of the data set whose pictures come in.
        model: gives outputs for inputs.
    """

    def __init__(self, ground_truth: GroundTruth, model: Model) -> None:
        super().__init__()
        self._ground_truth = ground_truth
        self._model = model

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One {"instances", "sem_seg"} an input, at original resolution."""
        outputs = self._model(batched_inputs)
        return [self._renamed(model_input, output) for model_input, output in zip(batched_inputs, outputs)]

    def _renamed(self, model_input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        truth = self._ground_truth
        true_map = torch.from_numpy(truth.part_map(truth.records[truth.position(model_input)]).astype("int64"))
        found = output["instances"].to("cpu")
        counts = [true_map[mask].bincount(minlength=truth.num_classes + 1) for mask in found.pred_masks]
        names = torch.tensor([int(c[: truth.num_classes + 1].argmax()) for c in counts], dtype=torch.int64)
        kept = found[names < truth.num_classes]
        kept.pred_classes = names[names < truth.num_classes]
        return {"instances": kept, "sem_seg": _painted(kept, truth.num_classes)}


register_row(
    ReportRow(
        name="oracle_true_boxes",
        note="SAM's masks of the true boxes under the model's names: what is lost by naming alone",
        columns=(PartColumn("IoU, true boxes", "IoU", order=5),),
        group_means=("mIoU",),
    )
)


class TrueBoxesOracle(BoxPromptOracle):
    """``oracle_true_boxes``: SAM prompted with every true box, each mask under the name that the model's part map gives
    most of its pixels; one that the map has no part in is left out.

    Args:
        ground_truth, prompt_masks: as of :class:`BoxPromptOracle`.
        model: gives outputs for inputs.
    """

    def __init__(self, ground_truth: GroundTruth, prompt_masks: PromptMasks, model: Model) -> None:
        super().__init__(ground_truth, prompt_masks)
        self._model = model

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        named = []
        for output, of_model in zip(super().forward(batched_inputs), self._model(batched_inputs)):
            predicted = of_model["sem_seg"].argmax(0)
            found, parts = output["instances"], self._ground_truth.num_classes
            counts = [predicted[mask].bincount(minlength=parts + 1)[:parts] for mask in found.pred_masks]
            kept = found[[k for k, count in enumerate(counts) if count.any()]]
            names = [int(count.argmax()) for count in counts if count.any()]
            kept.pred_classes = torch.tensor(names, dtype=torch.int64, device=predicted.device)
            named.append({"instances": kept, "sem_seg": _painted(kept, parts)})
        return named


def _painted(found: Instances, num_classes: int) -> torch.Tensor:
    """The part map float [C+1, H, W] of parts, the surest on top, of equals the first."""
    part_map = torch.full(found.image_size, num_classes, device=found.pred_masks.device)
    for k in found.scores.argsort(stable=True, descending=True).flip(0).tolist():
        part_map[found.pred_masks[k]] = int(found.pred_classes[k])
    sem_seg = torch.zeros((num_classes + 1, *found.image_size), device=part_map.device)
    return sem_seg.scatter_(0, part_map[None], 1.0)


def oracle_scores(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """One row for an oracle from the protocols it is scored with, d2_semseg and wps_image_part.

    Args:
        results: of an evaluation of the oracle, {"d2_semseg": {...}, "wps_image_part": {...}}.

    Returns:
        d2_semseg's metrics under their own names, wps_image_part's as ``image_part_mIoU`` and so on.
    """
    scores = dict(results.get("d2_semseg", {}))
    scores.update({f"image_part_{name}": v for name, v in results.get("wps_image_part", {}).items()})
    return scores
