"""A prompter that somebody else has registered, and keys that nobody reads."""

from __future__ import annotations

from typing import ClassVar

from wps_sam.config import add_wps_sam_config, check_config, needs_pixels, read_config
from wps_sam.prompters import PROMPTER_REGISTRY, Prompter
from wps_sam.prompters.losses import KINDS_OF_PLACE, box_loss, class_loss, cross_entropy, place_loss
from wps_sam.structures import Proposals

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from tiny_wps_sam import make_inputs
from torch import nn


class CornerPrompter(Prompter):
    """One query that says a class and where its box ends, from the mean of the image embedding."""

    CONFIG_NODE = "CORNER_PROMPTER"
    CHOICES: ClassVar = {"SIDE": (32, 64)}
    PROPOSES_BOXES = True

    def __init__(self, cfg, encoder, semantic):
        super().__init__()
        self.side, self.encoder = cfg.MODEL.CORNER_PROMPTER.SIDE, [encoder]
        channels = encoder.spec.features["image_embedding"][0]
        self.class_head = nn.Linear(channels, cfg.MODEL.PROMPTER.NUM_CLASSES + 1)
        self.box_head = nn.Linear(channels, 2)

    @staticmethod
    def add_config(node):
        node.SIDE = 64

    def predict(self, features):
        mean = features["image_embedding"].mean((2, 3))[:, None]
        far = self.side * (1 + self.box_head(mean).sigmoid())
        return self.class_head(mean), torch.cat([torch.zeros_like(far), far], dim=-1)

    def propose(self, features):
        logits, boxes = self.predict(features)
        return Proposals(logits, lambda i, queries: self.encoder[0].encode_prompts(boxes=boxes[i, queries]), boxes)

    def losses(self, features, targets):
        logits, boxes = self.predict(features)
        matches = [(torch.tensor([0]), torch.tensor([0]))] * len(targets)
        labelled = [target.boxes for target in targets]
        return {
            "loss_class": class_loss(cross_entropy, logits, targets, matches),
            "loss_box": place_loss(KINDS_OF_PLACE["box"], box_loss, boxes, labelled, targets, matches),
        }


@pytest.fixture
def registered():
    PROMPTER_REGISTRY.register(CornerPrompter)
    yield
    del PROMPTER_REGISTRY._obj_map["CornerPrompter"]


def config(*opts):
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.SAM.ARCH", "vit_tiny", *opts])
    return cfg


def test_a_prompter_from_outside_works_by_its_name(registered, tmp_path):
    path = tmp_path / "corner.yaml"
    path.write_text("MODEL:\n  PROMPTER:\n    NAME: CornerPrompter\n  CORNER_PROMPTER:\n    SIDE: 32\n")
    cfg = read_config(path, ["MODEL.DEVICE", "cpu", "MODEL.SAM.ARCH", "vit_tiny"])
    assert not needs_pixels(cfg)
    model = build_model(cfg).train()
    assert isinstance(model.prompter, CornerPrompter) and model.prompter.side == 32
    losses = model(make_inputs())
    sum(losses.values()).backward()
    assert set(losses) == {"loss_class", "loss_box"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        model.prompter.class_head.bias[-1] = -10
    outputs = model.eval()(make_inputs())
    assert [len(output["instances"]) for output in outputs] == [1, 1]
    with pytest.raises(ValueError, match=r"MODEL\.CORNER_PROMPTER\.SIDE is 5; allowed: 32, 64"):
        check_config(config("MODEL.PROMPTER.NAME", "CornerPrompter", "MODEL.CORNER_PROMPTER.SIDE", 5))


def test_an_unknown_prompter_lists_the_known():
    with pytest.raises(ValueError, match="MODEL.PROMPTER.NAME is 'Prompter'; allowed: 'DETRPrompter', 'DensePrompter'"):
        check_config(config("MODEL.PROMPTER.NAME", "Prompter"))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ("MODEL.DENSE_PROMPTER.STRIDE", 16),
            "MODEL.DENSE_PROMPTER.STRIDE is 16, but MODEL.PROMPTER.NAME is 'DETRPrompter', which does not read it",
        ),
        (
            ("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DETR_PROMPTER.NUM_QUERIES", 30),
            "MODEL.DETR_PROMPTER.NUM_QUERIES is 30, but .* leave it at 25, or choose DETRPrompter",
        ),
        (("MODEL.INFERENCE.NMS_THRESHOLD", 0.5), "NMS_THRESHOLD is 0.5, but DETRPrompter proposes no boxes"),
        (("MODEL.INFERENCE.UNSEEN_BIAS", 1.0), "UNSEEN_BIAS is 1.0, but only MODEL.PROMPTER.CLASSIFIER text"),
    ],
)
def test_keys_that_nobody_reads_are_refused(opts, message):
    check_config(config())
    with pytest.raises(ValueError, match=message):
        check_config(config(*opts))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("MODEL.PROMPTER.NUM_QUERIES", "MODEL.DETR_PROMPTER.NUM_QUERIES"),
        ("MODEL.PROMPTER.COMPANION_DIM", "MODEL.DENSE_PROMPTER.COMPANION_DIM"),
        ("MODEL.LOSS.CLASS_WEIGHT", "CLASS_WEIGHT and PROMPT_WEIGHT of MODEL.DETR_PROMPTER or MODEL.DENSE_PROMPTER"),
        ("MODEL.MATCHER.PROMPT_WEIGHT", "MODEL.DETR_PROMPTER.MATCHER_CLASS_WEIGHT and MATCHER_PROMPT_WEIGHT"),
    ],
)
def test_renamed_keys_are_told(tmp_path, old, new):
    path = tmp_path / "old.yaml"
    *nodes, key = old.split(".")
    lines = ["  " * depth + f"{node}:" for depth, node in enumerate(nodes)]
    path.write_text("\n".join([*lines, "  " * len(nodes) + f"{key}: 7"]) + "\n")
    with pytest.raises(ValueError, match=new.replace(".", r"\.")):
        read_config(path)
