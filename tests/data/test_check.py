"""wps_sam/data/check.py: counts by hand, and each oddity where it is and nowhere else."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from wps_sam.data import register_descriptions
from wps_sam.data.check import FEW_LABELS, Findings, check_datasets
from wps_sam.structures import LabelKind

import numpy as np
import pytest
import yaml
from tool_exports import picture

# Detectron2 keeps what it knows of a name for the whole process.
_SETS = itertools.count()
NAMES = ["wheel", "left door", "Right door", "left mirror", "spare"]


class Written:
    """A data set of train and val, pictures of 128 x 64 pixels, each with two wheels and each of its own grey."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, f"checked_{next(_SETS)}"
        self.keys: dict[str, Any] = {}
        self.content: dict[str, Any] = {}
        for split, shade in (("train", 10), ("val", 110)):
            names = [f"{split}_{k}.png" for k in range(6)]
            for k, name in enumerate(names):
                picture(root / name, (128, 64), grey=shade + k)
            images = [{"id": k, "file_name": name, "height": 64, "width": 128} for k, name in enumerate(names)]
            boxes = [[10, 10, 32, 8], [50, 10, 16, 16]]
            annotations = [
                {"id": 2 * k + i, "image_id": k, "category_id": 0, "bbox": box}
                for k in range(5)
                for i, box in enumerate(boxes)
            ]
            categories = [{"id": c, "name": name} for c, name in enumerate(NAMES)]
            self.content[split] = {"images": images, "annotations": annotations, "categories": categories}

    def add(self, image_id: int, category_id: int, **label: Any) -> None:
        labels = self.content["train"]["annotations"]
        labels.append({"id": 1000 + len(labels), "image_id": image_id, "category_id": category_id, **label})

    def check(self) -> list[Findings]:
        splits = {split: {"images": ".", "annotations": f"{split}.json"} for split in self.content}
        for split, content in self.content.items():
            (self.root / f"{split}.json").write_text(json.dumps(content))
        about = {"name": self.name, "layout": "coco", "root": str(self.root), "splits": splits, **self.keys}
        (self.root / "set.yaml").write_text(yaml.safe_dump(about))
        return check_datasets(register_descriptions([str(self.root / "set.yaml")]))

    def oddities(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Of the training set, by what they say."""
        return {oddity.what: (oddity.count, oddity.examples) for oddity in self.check()[0].oddities}


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def found(oddities: dict[str, Any], words: str) -> tuple[int, tuple[str, ...]]:
    (what,) = [what for what in oddities if words in what]
    return oddities[what]


def test_counts_and_sizes(written: Written) -> None:
    written.add(0, 1, point=[3, 4])
    written.add(0, 1, segmentation=[[1, 1, 20, 1, 20, 20]])
    written.content["train"]["images"][5]["tags"] = ["wheel"]
    train, val = written.check()
    assert train.labels[0].tolist() == [1, 0, 10, 0] and train.labels[1].tolist() == [0, 1, 0, 1]
    assert train.pictures.tolist() == [6, 1, 0, 0, 0] and (train.num_empty, val.num_empty) == (0, 1)
    # 32 * 8 and 16 * 16 of 128 * 64 pixels: a 32nd of the area each.
    np.testing.assert_allclose(train.box_sizes[0], [32**-0.5] * 10)
    assert val.labels[0, LabelKind.BOX] == 10


def test_a_sound_data_set_has_only_odd_classes(written: Written) -> None:
    written.keys["flip_pairs"] = [["left door", "Right door"]]
    assert FEW_LABELS == 10
    assert written.oddities() == {
        "classes have no label": (4, ("left door (0)", "Right door (0)", "left mirror (0)", "spare (0)")),
        "classes are of one side, and there is none of the other: leave INPUT.RANDOM_FLIP at none": (
            1,
            ("left mirror",),
        ),
    }


def test_odd_labels(written: Written) -> None:
    written.add(0, 0, bbox=[10, 10, 32, 8.2])
    written.add(1, 1, bbox=[50, 10, 16, 16])
    written.add(2, 1, bbox=[1, 1, 126, 63])
    # A cell is 2 pixels wide.
    written.add(3, 1, bbox=[3, 3, 1.5, 1.5])
    written.add(3, 1, bbox=[3, 3, 2, 1.5])
    written.add(4, 1, bbox=[3, 3, 9, 9], iscrowd=1)
    odd = written.oddities()
    assert found(odd, "are there twice") == (1, ("train_0.png: wheel",))
    assert found(odd, "two classes at once") == (1, ("train_1.png: left door and wheel",))
    assert found(odd, "fill their pictures") == (1, ("train_2.png",))
    assert found(odd, "smaller than one of SAM's cells") == (1, ("train_3.png",))
    assert found(odd, "are crowds") == (1, ("train_4.png",))
    assert found(odd, "fewer than 10 labels") == (1, ("left door (4)",))


def test_odd_classes(written: Written) -> None:
    written.content["train"]["images"][5]["tags"] = ["wheel"]
    written.keys["flip_pairs"] = []
    odd = written.oddities()
    assert found(odd, "in every picture") == (1, ("wheel",))
    assert found(odd, "flip_pairs do not exchange them") == (1, ("left door and Right door",))
    assert found(odd, "of one side") == (1, ("left mirror",))


def test_who_has_no_tags_is_told_nothing_of_tags(written: Written) -> None:
    written.add(5, 0, point=[3, 4])
    assert written.check()[0].pictures[0] == 6
    assert not [what for what in written.oddities() if "in every picture" in what]


def test_sides_that_are_exchanged_are_not_odd(written: Written) -> None:
    assert not [what for what in written.oddities() if "exchange them" in what]


def test_odd_pictures(written: Written) -> None:
    root = written.root
    (root / "val_3.png").write_bytes((root / "train_2.png").read_bytes())
    (root / "train_1.png").write_bytes((root / "train_0.png").read_bytes())
    picture(root / "train_4.png", (64, 128))
    (root / "train_5.png").write_bytes(b"no picture")
    odd = written.oddities()
    assert found(odd, f"are in {written.name}_val as well") == (1, ("train_2.png is val_3.png",))
    assert found(odd, "more than once, byte by byte") == (1, ("train_0.png is train_1.png",))
    assert found(odd, "have another size than their labels say") == (1, ("train_4.png: 64 x 128, not 128 x 64",))
    count, (example,) = found(odd, "cannot be read")
    assert count == 1 and example.startswith("train_5.png: image ")
