"""The graph of fixed shapes says what the model says."""

from __future__ import annotations

from collections.abc import Callable

from wps_sam import PartPredictor
from wps_sam.export.graph import PartGraph, keep_parts
from wps_sam.inference.select import select_parts

import numpy as np
import pytest
import torch
from export_scenes import DENSE, DETR

SHIFTED = ("MODEL.SAM.PADDING", "center")
BY_PIXEL = ("MODEL.INFERENCE.MERGE", "part_map", "MODEL.INFERENCE.NAMING", 0.0)
MOBILE = ("MODEL.SAM.ARCH", "mobile_test")
SEMANTIC = ("MODEL.SEMANTIC.NAME", "timm", "MODEL.SEMANTIC.WEIGHTS", "shipped")


@pytest.mark.parametrize("confidence", [None, 0.0, 0.35])
@pytest.mark.parametrize(
    "opts",
    [DENSE, (*DENSE, *SHIFTED), (*DENSE, *SEMANTIC), (*DENSE, *BY_PIXEL), DETR, (*DETR, *MOBILE)],
    ids=["dense", "centred", "semantic", "by_pixel", "detr", "mobile_sam"],
)
def test_it_is_the_model(
    opts: tuple[object, ...],
    confidence: float | None,
    small_predictor: Callable[..., PartPredictor],
    tiny_encoders: dict[str, str],
    pictures: list[np.ndarray],
) -> None:
    predictor = small_predictor(*opts)
    graph = PartGraph(predictor.model, 5)
    most = 0
    for picture in pictures:
        resized = predictor._to_input(picture, "", (1, 1))["image"]
        height, width = resized.shape[1:]
        asked = {} if confidence is None else {"confidence": confidence}
        with torch.no_grad():
            expected = predictor.model([{"image": resized, **asked}])[0]
        frame, parts = expected["frame"], expected["instances"]
        # What lies beside the picture is not looked at.
        square = torch.randint(256, (1, 3, 128, 128), dtype=torch.uint8)
        frame.crop(square)[0] = resized
        given = torch.tensor([-1.0 if confidence is None else confidence])
        found = dict(zip(graph.output_names, graph(square, torch.tensor([height, width]), given)))
        count = int((found["scores"] > 0).sum())
        assert count == len(parts) and (found["classes"][count:] == 3).all()
        torch.testing.assert_close(found["scores"][:count], parts.scores, atol=1e-4, rtol=0)
        assert found["classes"][:count].tolist() == parts.pred_classes.tolist()
        torch.testing.assert_close(found["mask_logits"][:count], parts.mask_logits, atol=0.02, rtol=1e-3)
        inside = frame.crop(found["part_map"])
        assert (inside == expected["sem_seg"].argmax(0)).float().mean() > 0.999
        assert (found["part_map"] != 3).sum() == (inside != 3).sum()
        most = max(most, count)
    assert most > 1 or confidence == 0.35


def test_boxes_are_those_of_the_masks(small_predictor: Callable[..., PartPredictor]) -> None:
    graph = PartGraph(small_predictor(*DENSE).model, 3)
    masks = torch.full((3, 32, 32), -1.0)
    masks[0, 2:5, 7:9] = 1
    masks[2, 0, 0] = 1
    # Cells of 4 pixels: rows 2 to 4 and columns 7 and 8. The second mask is empty, and the third is of no part.
    assert graph._boxes(masks, torch.tensor([0.9, 0.8, 0.0])).tolist() == [[28, 8, 36, 20], [0] * 4, [0] * 4]


@pytest.mark.parametrize("nms_threshold", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("by_rule", [True, False])
def test_the_same_proposals_are_kept(nms_threshold: float, by_rule: bool) -> None:
    g = torch.Generator().manual_seed(int(10 * nms_threshold))
    for count in (3, 40):
        logits = 2 * torch.randn(40, 4, generator=g)
        corners = torch.rand(40, 2, generator=g) * 20
        boxes = torch.cat([corners, corners + 20 + 20 * torch.rand(40, 2, generator=g)], dim=1)
        rule = {"nms_threshold": nms_threshold, "max_parts": count}
        expected = select_parts(logits, boxes, score_threshold=0.5, no_part_competes=by_rule, **rule)
        queries, scores, classes = keep_parts(
            logits,
            boxes,
            by_rule=torch.tensor([by_rule]),
            threshold=torch.tensor([0.5]),
            nms_threshold=nms_threshold,
            count=count,
        )
        n = len(expected.queries)
        assert 0 < n <= count and (scores[:n] > 0).all() and (scores[n:] == 0).all() and (classes[n:] == 3).all()
        assert queries[:n].tolist() == expected.queries.tolist()
        assert classes[:n].tolist() == expected.classes.tolist()


def test_what_no_graph_can_be_made_of(
    small_predictor: Callable[..., PartPredictor], tiny_encoders: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="MERGE is 'authors'; expected semantic or part_map"):
        PartGraph(small_predictor(*DENSE, "MODEL.INFERENCE.MERGE", "authors").model, 5)
    with pytest.raises(ValueError, match="the model is Linear; expected WPSSAM"):
        PartGraph(torch.nn.Linear(1, 1), 5)
    with pytest.raises(ValueError, match=r"MODEL\.SAM\.ARCH sam2_test, of which no file .* expected one of vit_tiny"):
        PartGraph(small_predictor(*DETR, "MODEL.SAM.ARCH", "sam2_test").model, 5)
