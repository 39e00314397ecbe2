"""A small data set in layout coco, as an exporter writes it, to be changed a field at a time."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wps_sam.data.sources.descriptions import register_descriptions

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

_NAMES = itertools.count()


def annotation(number: int, image_id: Any, category_id: Any, box: tuple[int, int, int, int], **more: Any) -> dict:
    """A rectangle of pixels: polygon and box say the same."""
    x, y, w, h = box
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    whole = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(box), "area": w * h}
    return {**whole, "segmentation": [list(map(float, corners))], "iscrowd": 0, **more}


def coco(height: int = 20, width: int = 30) -> dict[str, Any]:
    """Two pictures, a.png and b.png, with a wheel and a window each; ids from 1, as most tools have them."""
    images = [{"id": i, "file_name": f"{n}.png", "height": height, "width": width} for i, n in ((1, "a"), (2, "b"))]
    parts = [annotation(2 * i + k, i, k, (2 + 9 * (k - 1), 3, 8, 12)) for i in (1, 2) for k in (1, 2)]
    names = [{"id": 1, "name": "wheel", "supercategory": "car"}, {"id": 2, "name": "window", "supercategory": "car"}]
    return {"images": images, "annotations": parts, "categories": names}


@dataclass
class SmallSet:
    """One written data set; ``write`` puts a json in place of a split's, and ``load`` registers and reads it."""

    root: Path
    keys: dict[str, Any] = field(default_factory=dict)

    def json_file(self, split: str = "train") -> Path:
        return self.root / f"{split}.json"

    def write(self, content: Any, split: str = "train") -> None:
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        self.json_file(split).write_bytes(text if isinstance(text, bytes) else text.encode())

    def description(self, **keys: Any) -> str:
        """A description of both splits, under a new name."""
        name = f"real_{next(_NAMES)}"
        splits = {s: {"images": "images", "annotations": f"{s}.json"} for s in ("train", "val")}
        path = self.root / f"{name}.yaml"
        content = {"name": name, "layout": "coco", "root": str(self.root), "splits": splits, **self.keys, **keys}
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return str(path)

    def register(self, **keys: Any) -> tuple[str, str]:
        """The names of the two splits."""
        train, val = register_descriptions([self.description(**keys)])
        return train, val

    def load(self, split: str = "train", **keys: Any) -> list[dict[str, Any]]:
        return DatasetCatalog.get(self.register(**keys)[split == "val"])

    def metadata(self, **keys: Any) -> Any:
        return MetadataCatalog.get(self.register(**keys)[0])
