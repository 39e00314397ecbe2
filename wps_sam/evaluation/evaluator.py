"""What all protocols share: one picture at a time, each exactly once, checked before it is scored."""

from __future__ import annotations

import json
import logging
import os
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from typing import Any, ClassVar

from wps_sam.evaluation.ground_truth import GroundTruth, Record
from wps_sam.masks import mask_to_rle

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

Results = OrderedDict[str, dict[str, float]]


class PartEvaluator(DatasetEvaluator):
    """Base of the protocols, with Detectron2's evaluator interface.

    Every process scores its own pictures; ``evaluate`` gathers them on the main one. Pictures with no
    annotation are scored like any other. A child has a state, which ``reset`` empties, ``process_image`` adds a picture
    to, and ``compute`` gathers and turns into numbers; ``protocols.py`` says how it gets its name.

    Args:
        dataset_name: as registered in Detectron2's catalogs.
        distributed: gather from all processes; otherwise each evaluates what it has seen alone.
        output_dir: folder for files that explain the numbers; None writes none.
        ground_truth: of the same data set, where several evaluators share it; read from the catalog otherwise.
    """

    # Names of the protocols that the class serves; register_protocols fills them in.
    PROTOCOLS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        ground_truth: GroundTruth | None = None,
    ) -> None:
        self.ground_truth = ground_truth if ground_truth is not None else GroundTruth(dataset_name)
        if self.ground_truth.dataset_name != dataset_name:
            raise ValueError(f"ground_truth: expected {dataset_name}, got {self.ground_truth.dataset_name}")
        self._distributed = distributed
        self._output_dir = output_dir
        self.reset()

    @property
    def protocol(self) -> str:
        """The name of the protocol, of a class that serves one."""
        (name,) = self.PROTOCOLS
        return name

    def reset(self) -> None:
        """Forgets all pictures scored so far."""
        self._seen: set[int] = set()

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Scores a batch.

        Args:
            inputs: the model's inputs, with image_id and file_name.
            outputs: the model's outputs, one for each input, in the same order.

        Raises:
            ValueError: names the file that is unknown to the data set, comes a second time, or whose results have
                the size of another picture.
        """
        if len(inputs) != len(outputs):
            raise ValueError(f"expected one output for each of {len(inputs)} inputs, got {len(outputs)}")
        for model_input, output in zip(inputs, outputs):
            position = self.ground_truth.position(model_input)
            if position in self._seen:
                raise ValueError(f"{model_input['file_name']}: scored twice in one evaluation")
            self._seen.add(position)
            self.process_image(position, self.ground_truth.records[position], model_input, output)

    def evaluate(self) -> Results:
        """Gathers and summarises.

        Returns:
            {protocol: {metric: percent}} on the main process (on every process if not distributed), {} elsewhere.

        Raises:
            ValueError: two processes scored the same picture.
        """
        # On all processes, so that all of them stop where one finds a picture scored twice.
        shards = comm.all_gather(self._seen) if self._distributed else [self._seen]
        seen: set[int] = set()
        for shard in shards:
            twice = seen & shard
            if twice:
                file_name = self.ground_truth.records[min(twice)]["file_name"]
                raise ValueError(f"{file_name}: scored by two processes; {len(twice)} pictures were")
            seen |= shard
        if comm.is_main_process() and len(seen) < len(self.ground_truth.records):
            logger.warning(
                "%s: %s scored %d of %d pictures; the numbers hold for these only",
                self.ground_truth.dataset_name,
                type(self).__name__,
                len(seen),
                len(self.ground_truth.records),
            )
        return self.compute()

    @abstractmethod
    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        """Adds one picture to the state.

        Args:
            position: place of the picture in the data set's records.
            record: ``records[position]``.
            model_input, output: the model's, of this picture.
        """

    @abstractmethod
    def compute(self) -> Results:
        """What ``evaluate`` returns, after the checks. Called on all processes; see :meth:`gather`."""

    def gather(self, state: Any) -> list[Any] | None:
        """All processes' states on the process that summarises, None on the others."""
        if not self._distributed:
            return [state]
        states = comm.gather(state, dst=0)
        return states if comm.is_main_process() else None


def checked_sem_seg(
    record: Record, output: Mapping[str, Any], size: tuple[int, int], *num_channels: int
) -> torch.Tensor:
    """The scores of every class at every pixel of one picture, on the model's device.

    Args:
        record: of the picture.
        output: of the model, with ``sem_seg`` float [channels, H, W].
        size: (H, W) of the picture in pixels.
        num_channels: the numbers of channels that are possible.

    Raises:
        ValueError: names the file, for scores of another size or none.
    """
    expected = [[channels, *size] for channels in num_channels]
    came = list(output["sem_seg"].shape) if "sem_seg" in output else f"only {sorted(output)}"
    if came not in expected:
        wanted = " or ".join(map(str, expected))
        raise ValueError(f"{record['file_name']}: expected sem_seg {wanted}, got {came}")
    scores: torch.Tensor = output["sem_seg"]
    return scores


def encode_labels(record: Record, part_map: np.ndarray, labels: Container[int]) -> list[dict[str, Any]]:
    """What sem_seg_predictions.json says of one picture, in the form of Detectron2 and of the OV-PARTS challenge.

    Args:
        record: of the picture.
        part_map: int [H, W], the predicted label of each pixel.
        labels: those to write; one that no pixel has is left out.

    Returns:
        One {file_name, category_id, segmentation: run-length encoding} a label.
    """
    present = np.unique(part_map).tolist()
    return [
        {"file_name": record["file_name"], "category_id": label, "segmentation": mask_to_rle(part_map == label)}
        for label in present
        if label in labels
    ]


def write_predictions(output_dir: str, entries: Sequence[dict[str, Any]]) -> None:
    """Writes :func:`encode_labels` of all pictures to sem_seg_predictions.json in ``output_dir``."""
    PathManager.mkdirs(output_dir)
    with PathManager.open(os.path.join(output_dir, "sem_seg_predictions.json"), "w") as f:
        json.dump(list(entries), f)


def percent(scores: Mapping[str, float]) -> dict[str, float]:
    """Fractions 0..1 as percent."""
    return {name: 100.0 * value for name, value in scores.items()}


def checked_instances(record: Record, output: Mapping[str, Any], num_classes: int) -> Instances:
    """The predicted parts of one picture, on the model's device, once they are known to belong to it.

    Args:
        record: of the picture.
        output: of the model, with ``instances``: pred_masks bool [K, H, W], pred_classes int [K].
        num_classes: C.

    Raises:
        ValueError: names the file, for results of another size, classes outside 0..C-1, or no instances.
    """
    file_name, expected = record["file_name"], (record["height"], record["width"])
    if "instances" not in output:
        raise ValueError(f"{file_name}: expected instances in the model's output, got {sorted(output)}")
    instances = output["instances"]
    if tuple(instances.image_size) != expected:
        raise ValueError(
            f"{file_name}: is {expected} pixels high and wide, but its instances are of a picture of "
            f"{tuple(instances.image_size)}"
        )
    masks = instances.pred_masks
    if tuple(masks.shape[1:]) != expected or masks.dtype != torch.bool:
        raise ValueError(
            f"{file_name}: expected pred_masks bool [K, {expected[0]}, {expected[1]}], "
            f"got {masks.dtype} {list(masks.shape)}"
        )
    classes = instances.pred_classes
    if len(classes) and not (0 <= int(classes.min()) and int(classes.max()) < num_classes):
        raise ValueError(
            f"{file_name}: expected pred_classes in 0..{num_classes - 1}, "
            f"got {int(classes.min())}..{int(classes.max())}"
        )
    return instances
