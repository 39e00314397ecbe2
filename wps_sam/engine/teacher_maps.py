"""What the frozen segmenter makes of the weak labels: for every training picture a part map to learn from.

The segmenter is asked with each box or point that training may see, and with nothing else; true masks are used where
WEAK_LABELS.TYPE shows them. So a dense head can be trained on labels that are no masks (as BoxSup, arXiv 1503.01640).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from ..checkpointer import write_atomically
from ..data.mapper import FeatureReader, PartDatasetMapper, build_augmentations
from ..data.weak_labels import label_kind, part_mask, part_point, usable_box
from ..encoders import PromptableEncoder, build_encoder, encoder_class
from ..inference.merge import resize_mask
from ..masks import record_size
from ..structures import UNKNOWN, Frame, LabelKind, input_size

logger = logging.getLogger(__name__)

# To be raised when the same labels and encoder give other maps than before.
VERSION = 1
Records = Sequence[Mapping[str, Any]]


def teacher_maps(cfg: CfgNode, dataset_name: str, records: Records, features: FeatureReader | None) -> list[np.ndarray]:
    """A PNG, uint8 [n], of the part map of every record's picture; see :func:`paint`.

    They are made once, by the main process, and kept beside the features; with MODEL.SAM.FEATURES live in OUTPUT_DIR.

    Args:
        cfg: what training may see of the labels, and the encoder.
        dataset_name: of the records.
        records: those that are trained on.
        features: where the encoder's features are stored; None if it has to look at the pictures.
    """
    folder = Path(cfg.OUTPUT_DIR if features is None else cfg.MODEL.SAM.CACHE_DIR) / dataset_name
    path = folder / f"teacher_maps-{_identity(cfg, records)[:16]}.safetensors"
    if comm.is_main_process() and not _is_whole(path, len(records)):
        logger.info("%s: the segmenter draws the part maps of %d training pictures, once", dataset_name, len(records))
        maps = [encode_map(m) for m in tqdm(_painted(cfg, records, features), total=len(records), unit="picture")]
        folder.mkdir(parents=True, exist_ok=True)
        content = save({f"{i:07d}": torch.from_numpy(png) for i, png in enumerate(maps)})
        write_atomically(path, lambda file: file.write(content))
    comm.synchronize()
    stored = load_file(path)
    return [stored[f"{i:07d}"].numpy() for i in range(len(records))]


def _identity(cfg: CfgNode, records: Records) -> str:
    """SHA-256 of all that the maps follow from."""
    labels = [
        [
            record["file_name"],
            *record_size(record),
            record.get("tags"),
            [_label(cfg, record, a) for a in _parts(record)],
        ]
        for record in records
    ]
    background = cfg.MODEL.PROMPTER.NUM_CLASSES
    about = [VERSION, encoder_class(cfg).feature_settings(cfg), dict(cfg.WEAK_LABELS.items()), background, labels]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _is_whole(path: Path, count: int) -> bool:
    try:
        return len(load_file(path)) == count
    except (FileNotFoundError, SafetensorError):
        return False


def _parts(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [annotation for annotation in record["annotations"] if not annotation.get("iscrowd", 0)]


def _label(cfg: CfgNode, record: Mapping[str, Any], annotation: Mapping[str, Any]) -> tuple[LabelKind, int, Any]:
    """Kind, class and what is known of the place: a mask as it is written down, a box xyxy, or a point xy."""
    height, width = record_size(record)
    kind = label_kind(annotation, height, width, cfg.WEAK_LABELS.TYPE)
    if kind == LabelKind.MASK:
        place: Any = annotation["segmentation"]
    elif kind == LabelKind.BOX:
        place = usable_box(annotation, height, width)
    else:
        place = part_point(annotation, height, width, cfg.WEAK_LABELS.POINT, cfg.WEAK_LABELS.SEED)
    return kind if place is not None else LabelKind.TAG, annotation["category_id"], place


@torch.no_grad()
def _painted(cfg: CfgNode, records: Records, features: FeatureReader | None) -> Iterator[np.ndarray]:
    encoder = build_encoder(cfg).to(cfg.MODEL.DEVICE)
    names = encoder.spec.features
    mapper = PartDatasetMapper(
        is_train=False, augmentations=build_augmentations(cfg, is_train=False), features=features, pixels=False
    )
    for record in records:
        model_input = mapper(record)
        if features is None:
            seen = encoder(encoder.preprocess(model_input["image"].to(cfg.MODEL.DEVICE))[0][None])
        else:
            seen = {name: model_input[name][None].float().to(cfg.MODEL.DEVICE) for name in names}
        yield paint(cfg, encoder, record, seen, encoder.frame(*input_size(model_input)))


def paint(
    cfg: CfgNode, encoder: PromptableEncoder, record: Mapping[str, Any], features: Mapping[str, Tensor], frame: Frame
) -> np.ndarray:
    """The part map uint16 [height, width] of a picture: classes, background C, and UNKNOWN.

    Of labels that overlap the smallest mask is on top: a belt on trousers. Where the picture's tags name a class that
    no label places, nobody knows what the rest of it is.
    """
    height, width = record_size(record)
    labels = [label for a in _parts(record) if (label := _label(cfg, record, a))[0] != LabelKind.TAG]
    scale = torch.tensor([frame.width / width, frame.height / height], device=cfg.MODEL.DEVICE)
    corner = torch.tensor([frame.left, frame.top], device=cfg.MODEL.DEVICE)
    masks: dict[int, np.ndarray] = {}
    for kind in LabelKind:
        chosen = [k for k, label in enumerate(labels) if label[0] == kind]
        places = [labels[k][2] for k in chosen]
        if not chosen:
            continue
        if kind == LabelKind.MASK:
            drawn = [part_mask({"id": "mask", "segmentation": place}, height, width) for place in places]
        else:
            # Points are given by pixel centres; in the square they are continuous, as boxes are.
            xy = torch.tensor(places, device=cfg.MODEL.DEVICE).view(len(chosen), -1, 2) + 0.5 * (
                kind == LabelKind.POINT
            )
            prompts = (xy * scale + corner).flatten(1)
            tokens = encoder.encode_prompts(**{"boxes" if kind == LabelKind.BOX else "points": prompts})
            logits = encoder.decode(features, [tokens])[0].logits[:, 0]
            drawn = [(resize_mask(of_prompt, frame, height, width) > 0).cpu().numpy() for of_prompt in logits]
        masks.update(zip(chosen, drawn))
    unplaced = set(record.get("tags", ())) - {label for _, label, _ in labels}
    rest = UNKNOWN if cfg.WEAK_LABELS.TYPE == "as_annotated" and unplaced else cfg.MODEL.PROMPTER.NUM_CLASSES
    part_map = np.full((height, width), rest, np.uint16)
    for k in sorted(range(len(masks)), key=lambda k: -masks[k].sum()):
        part_map[masks[k]] = labels[k][1]
    return part_map


def encode_map(part_map: np.ndarray) -> np.ndarray:
    """A part map uint16 [h, w] to a PNG, uint8 [n]."""
    return cv2.imencode(".png", part_map)[1]
