"""The stand-in's Visualizer: what is painted where, at any size. Detectron2's own style is free to differ."""

from __future__ import annotations

import wps_sam  # isort: skip  # noqa: F401

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wps_sam.standin.data import MetadataCatalog
from wps_sam.standin.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from wps_sam.standin.utils.visualizer import ColorMode, Visualizer

import numpy as np
import pytest
import torch
from PIL import Image

GREY = 100
RED, BLUE = (255, 0, 0), (0, 0, 255)


def canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def metadata(**known: Any) -> Any:
    return SimpleNamespace(get=known.get, **known)


@pytest.fixture
def known() -> Any:
    names, colors = ["head", "a very long name of a part"], [RED, BLUE]
    return metadata(thing_classes=names, thing_colors=colors, stuff_classes=names, stuff_colors=colors)


def predictions(height: int, width: int) -> Instances:
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, : max(1, height // 2)] = True
    masks[1, -1:, -1:] = True
    found = Instances((height, width), pred_masks=masks, scores=torch.tensor([0.9, 0.2]))
    found.pred_boxes = BitMasks(masks).get_bounding_boxes()
    found.pred_classes = torch.tensor([0, 1])
    return found


@pytest.mark.parametrize("shape", [(1, 1), (40, 3), (60, 90), (800, 20)])
@pytest.mark.parametrize("mode", list(ColorMode))
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_any_size_is_drawn(shape: tuple[int, int], mode: ColorMode, scale: float, known: Any) -> None:
    image = canvas(*shape)
    drawn = Visualizer(image, known, scale=scale, instance_mode=mode).draw_instance_predictions(predictions(*shape))
    expected = tuple(max(1, int(side * scale + 0.01)) for side in shape)
    assert drawn.get_image().shape == (*expected, 3) and drawn.get_image().dtype == np.uint8
    assert (image == GREY).all()


def test_masks_are_tinted_inside_and_outlined() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    mask[25, 35] = True
    drawn = Visualizer(canvas(30, 40)).draw_binary_mask(mask, "red", edge_color="blue", alpha=0.5).get_image()
    assert drawn[12, 20].tolist() == [178, 50, 50]
    assert drawn[5, 20].tolist() == [0, 0, 255]
    assert (drawn[mask == 0].reshape(-1, 3)[:5] == GREY).all()
    assert (drawn[25, 35] == GREY).all(), "a speck below area_threshold"
    everything = Visualizer(canvas(30, 40)).draw_binary_mask(mask, "red", alpha=0.5, area_threshold=0).get_image()
    assert (everything[25, 35] != GREY).any()
    with pytest.raises(ValueError, match="mask of"):
        Visualizer(canvas(3, 4)).draw_binary_mask(mask)


def test_label_maps_have_the_colours_of_their_classes(known: Any) -> None:
    labels = np.full((80, 400), 2)
    labels[10:70, 10:150], labels[10:70, 200:390] = 0, 1
    drawn = Visualizer(canvas(80, 400), known).draw_sem_seg(torch.from_numpy(labels), alpha=1.0).get_image()
    assert drawn[65, 20].tolist() == list(RED) and drawn[65, 210].tolist() == list(BLUE)
    assert (drawn[2, 2] == GREY).all(), "2 has no name"


def test_all_kinds_of_masks_are_the_same_picture() -> None:
    polygon = [4.0, 4.0, 20.0, 4.0, 20.0, 12.0, 4.0, 12.0]
    bitmap = BitMasks.from_polygon_masks([[np.array(polygon)]], 30, 40)
    rle = {"size": [30, 40], "counts": [124, 8, *([22, 8] * 15), 618]}
    kinds: list[Any] = [bitmap, bitmap.tensor, PolygonMasks([[polygon]]), [[polygon]], [rle]]
    pictures = [
        Visualizer(canvas(30, 40)).overlay_instances(masks=kind, assigned_colors=["g"]).get_image() for kind in kinds
    ]
    assert all((picture == pictures[0]).all() for picture in pictures)
    assert (pictures[0][8, 10] != GREY).any()


def test_boxes_points_and_texts(known: Any, tmp_path: Path) -> None:
    drawing = Visualizer(canvas(60, 80), known)
    drawing.draw_box((10, 10, 40, 50), alpha=1.0, edge_color="r")
    drawing.draw_circle((60, 30), "b", radius=4)
    output = drawing.draw_text("text", (79, 59), color="w")
    picture = output.get_image()
    assert picture[30, 10, 0] > 200 and (picture[30, 25] == GREY).all()
    assert picture[29, 59].tolist() == list(BLUE)
    assert (picture[45:, 50:] != GREY).any(), "a text at the edge is moved inside"
    output.save(str(tmp_path / "drawn.png"))
    assert (np.asarray(Image.open(tmp_path / "drawn.png")) == picture).all()


def test_records_are_drawn(known: Any, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "labels.png")
    record = {
        "annotations": [{"bbox": [2, 3, 20, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}],
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }
    drawn = Visualizer(canvas(30, 40), known, instance_mode=ColorMode.SEGMENTATION).draw_dataset_dict(record)
    assert (drawn.get_image()[20, 20] != GREY).any()
    empty = Visualizer(canvas(30, 40)).overlay_instances(boxes=Boxes([]), labels=[])
    assert (empty.get_image() == GREY).all()
    assert MetadataCatalog.get("never registered").get("thing_classes") is None
