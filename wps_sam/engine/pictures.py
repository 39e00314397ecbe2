"""A few pictures of a data set with what is found in them, as a training goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from ..evaluation.ground_truth import boxes_without_masks
from ..masks import read_part_map, read_picture
from ..visualization import side_by_side

# The longer side of what is drawn, in pixels at most: a run keeps every picture of every evaluation.
LARGEST = 1000


class WatchedPictures(DatasetEvaluator):
    """Keeps the part maps that an evaluation predicts for some pictures, always the same ones, and scores nothing.

    Args:
        dataset_name: as registered. Of a set whose records are single objects no picture is kept.
        count: how many, spread over the data set.
    """

    def __init__(self, dataset_name: str, count: int) -> None:
        records = DatasetCatalog.get(dataset_name)
        chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
        self._records = {records[k]["image_id"]: records[k] for k in chosen if "category_id" not in records[k]}
        self._metadata = MetadataCatalog.get(dataset_name)
        self.reset()

    def reset(self) -> None:
        self._maps: dict[Any, np.ndarray] = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        for model_input, output in zip(inputs, outputs):
            if model_input["image_id"] in self._records and "sem_seg" in output:
                found = output["sem_seg"].argmax(dim=0).to(torch.int32)
                self._maps[model_input["image_id"]] = found.cpu().numpy()

    def evaluate(self) -> None:
        """Gathers the maps on the main process."""
        self._maps = {key: found for part in comm.gather(self._maps) for key, found in part.items()}

    def draw(self) -> Iterator[tuple[str, np.ndarray]]:
        """On the main process, of each picture a name, "data set/file", and picture, truth and prediction side by side:
        uint8 [H, W, 3], RGB."""
        for image_id in (key for key in self._records if key in self._maps):
            record, found = self._records[image_id], self._maps[image_id]
            truth = read_part_map(record, self._metadata)
            names, boxes = self._metadata.thing_classes, boxes_without_masks(record)
            drawn = Image.fromarray(side_by_side(read_picture(record), truth, found, names, true_boxes=boxes))
            drawn.thumbnail((LARGEST, LARGEST))
            yield f"{self._metadata.name}/{Path(record['file_name']).stem}", np.asarray(drawn)
