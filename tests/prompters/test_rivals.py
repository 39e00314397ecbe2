"""What the prompters are compared with: a detector whose boxes SAM is asked with, networks that classify pixels."""

import math

from wps_sam.config import check_config
from wps_sam.prompters.fcos import _as_logits

import pytest
import torch
from detectron2.modeling import build_model
from tiny_wps_sam import make_inputs, tiny_config

FCOS = ("MODEL.PROMPTER.NAME", "FCOSPrompter", "MODEL.FCOS_PROMPTER.DIM", 32, "MODEL.FCOS_PROMPTER.NUM_CONVS", 1)
PIXELS = (
    *("MODEL.PROMPTER.NAME", "PixelClassifier", "MODEL.INFERENCE.MERGE", "part_map"),
    *("MODEL.PIXEL_CLASSIFIER.ENCODER", "tu-mobilenetv3_small_050"),
    *("MODEL.PIXEL_CLASSIFIER.IMAGE_SIZE", 64),
)


def _squares(inputs):
    """With a part map of two classes beside the background, left and right."""
    for record in inputs:
        height, width = record["image"].shape[1:]
        part_map = torch.full((height, width), 4)
        part_map[:, : width // 3], part_map[:, width // 3 : width // 2] = 0, 3
        record["part_map"] = part_map
        record["image"] = (part_map * 50).to(torch.uint8).expand(3, height, width)
    return inputs


def test_a_detection_is_its_labels_however_low_its_score():
    logits = _as_logits(torch.tensor([0.3, 0.9]), torch.tensor([2, 0]), num_classes=4)
    probability = logits.softmax(-1)
    assert probability.argmax(-1).tolist() == [2, 0]
    assert torch.allclose(probability[0], torch.tensor([0.175, 0.175, 0.3, 0.175, 0.175]))
    assert math.isclose(probability[1, 0], 0.9, rel_tol=1e-5)


@torch.no_grad()
def test_fcos_proposes_boxes_that_sam_is_asked_with():
    cfg = tiny_config(*FCOS, "MODEL.INFERENCE.NMS_THRESHOLD", 0.6)
    check_config(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    features, _ = model.embed(make_inputs())
    bias = model.prompter.detector.head.classification_head.cls_logits.bias
    bias[:] = -9.0
    assert model.prompter.propose(features).logits.shape == (2, 0, 5)
    assert [len(result["instances"]) for result in model(make_inputs())] == [0, 0]
    bias[:] = 2.0
    proposals = model.prompter.propose(features)
    assert proposals.boxes.shape == (2, 100, 4) and proposals.logits.shape == (2, 100, 5)
    assert 0 <= proposals.boxes.min() and proposals.boxes.max() <= 512
    asked = proposals.encode(1, torch.tensor([3]))
    assert torch.equal(asked, model.backbone.encode_prompts(boxes=proposals.boxes[1, 3:4]))


def test_fcos_learns_the_boxes_of_two_pictures():
    torch.manual_seed(0)
    model = build_model(tiny_config(*FCOS)).train()
    inputs = make_inputs()
    optimizer = torch.optim.AdamW(model.prompter.parameters(), 1e-2)
    sums = []
    for _ in range(12):
        losses = model(inputs)
        assert set(losses) == {"loss_classification", "loss_bbox_regression", "loss_bbox_ctrness"}
        sums.append(sum(losses.values()))
        optimizer.zero_grad()
        sums[-1].backward()
        optimizer.step()
    assert sums[-1] < 0.7 * sums[0]


def test_a_pixel_classifier_is_its_own_result():
    cfg = tiny_config(*PIXELS, "WEAK_LABELS.TYPE", "mask")
    check_config(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = torch.optim.AdamW(model.prompter.parameters(), 1e-2)
    for _ in range(10):
        losses = model(_squares(make_inputs(label="mask")))
        assert set(losses) == {"loss_part"}
        optimizer.zero_grad()
        losses["loss_part"].backward()
        optimizer.step()
    assert losses["loss_part"] < 0.8
    # Batch norms that saw ten batches do not know their statistics yet.
    with torch.no_grad():
        model.prompter.network.train()
        model.training = False
        results = model(_squares(make_inputs()))
    for result, record in zip(results, make_inputs()):
        assert result["sem_seg"].shape == (5, record["height"], record["width"]) and not len(result["instances"])
        assert torch.allclose(result["sem_seg"].sum(0), torch.ones(()), atol=1e-4)


@pytest.mark.parametrize("name", ["DETRPrompter", "FCOSPrompter"])
def test_a_part_map_is_asked_only_of_those_that_have_one(name):
    with pytest.raises(ValueError, match=f"MERGE is 'part_map', but {name}"):
        check_config(tiny_config("MODEL.PROMPTER.NAME", name, "MODEL.INFERENCE.MERGE", "part_map"))


def test_the_dense_head_alone_can_be_the_result():
    dense = ("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DENSE_PROMPTER.PART_WEIGHT", 1.0)
    torch.manual_seed(0)
    model = build_model(tiny_config(*dense, "MODEL.INFERENCE.MERGE", "part_map")).eval()
    inputs = make_inputs(sizes=((512, 512),))
    with torch.no_grad():
        logits = model.prompter.propose(model.embed(inputs)[0]).part_map
        result = model(inputs)[0]["sem_seg"]
    expected = torch.nn.functional.interpolate(logits, (128, 128), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.interpolate(expected, (512, 512), mode="bilinear", align_corners=False)
    size = result.shape[-2:]
    expected = torch.nn.functional.interpolate(expected, size, mode="bilinear", align_corners=False)
    assert torch.allclose(result, expected[0].softmax(0), atol=1e-4)
