"""A small WPSSAM on random weights, and made-up inputs for it."""

from wps_sam.config import add_wps_sam_config
from wps_sam.encoders.build_sam import MobileSamArch
from wps_sam.structures import LabelKind

import torch
from detectron2.config import get_cfg
from detectron2.structures import BitMasks, Boxes, Instances

# A MobileSAM of which every part is small; to be put into SAM_ARCHS.
MOBILE_TEST = MobileSamArch(128, (8, 16, 24, 32), (1, 1, 1, 1), (1, 2, 3, 4), (7, 3, 4, 3), 32)
SIZES = {
    "DETRPrompter": (
        *("MODEL.DETR_PROMPTER.NUM_QUERIES", 8, "MODEL.DETR_PROMPTER.NUM_ENCODER_LAYERS", 1),
        *("MODEL.DETR_PROMPTER.NUM_DECODER_LAYERS", 1),
    ),
    "DensePrompter": ("MODEL.DENSE_PROMPTER.NUM_CONVS", 1, "MODEL.DENSE_PROMPTER.CONV_DIM", 32),
}


def tiny_config(*opts):
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    name = dict(zip(opts[::2], opts[1::2])).get("MODEL.PROMPTER.NAME", "DETRPrompter")
    cfg.merge_from_list(
        [
            "MODEL.DEVICE",
            "cpu",
            "MODEL.SAM.ARCH",
            "vit_tiny",
            "MODEL.PROMPTER.NUM_CLASSES",
            4,
            "MODEL.INFERENCE.MAX_PARTS",
            6,
            *SIZES.get(name, ()),
            *opts,
        ]
    )
    return cfg


def make_inputs(sizes=((512, 340), (200, 512)), parts=2, label="box", seed=0):
    """As the mapper gives them for WEAK_LABELS.TYPE ``label``; "mixed" has one label of each kind and a tag."""
    g = torch.Generator().manual_seed(seed)
    inputs = []
    for height, width in sizes:
        if label == "mixed":
            parts = 3
        instances = Instances((height, width))
        instances.gt_classes = torch.randint(4, (parts,), generator=g)
        corner = torch.rand(parts, 2, generator=g) * 80
        boxes = torch.cat([corner, corner + 60 + corner], dim=1)
        kinds = {
            "box": [LabelKind.BOX] * parts,
            "point": [LabelKind.POINT] * parts,
            "mask": [LabelKind.MASK] * parts,
            "mixed": [LabelKind.BOX, LabelKind.POINT, LabelKind.MASK],
        }[label]
        instances.gt_kinds = torch.tensor(kinds, dtype=torch.int64)
        is_point = instances.gt_kinds == LabelKind.POINT
        if label != "point":
            instances.gt_boxes = Boxes(boxes.masked_fill(is_point[:, None], 0))
        if label in ("point", "mixed"):
            instances.gt_points = corner.masked_fill(~is_point[:, None], 0)
        if label in ("mask", "mixed"):
            masks = torch.zeros(parts, height, width, dtype=torch.bool)
            for mask, (x0, y0, x1, y1), kind in zip(masks, boxes.round().int().tolist(), kinds):
                mask[y0:y1, x0:x1] = kind == LabelKind.MASK
            instances.gt_masks = BitMasks(masks)
        image = torch.randint(256, (3, height, width), generator=g, dtype=torch.uint8)
        record = {"image": image, "instances": instances, "height": height // 2, "width": width // 2}
        if label == "mixed":
            record["tags"] = torch.tensor([3])
        inputs.append(record)
    return inputs
