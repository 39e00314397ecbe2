"""The generated pictures and the data set written from them."""

from __future__ import annotations

import json
from pathlib import Path

from wps_sam.data.sources.descriptions import register_descriptions
from wps_sam.data.synthetic import (
    BACKGROUND,
    CATEGORIES,
    CLASS_NAMES,
    MAX_PARTS,
    MIN_PIXELS,
    PARTS,
    SUPERCATEGORIES,
    SyntheticPicture,
    generate,
    write_dataset,
)
from wps_sam.masks import mask_to_box, read_part_map, read_rgb, segmentation_to_mask

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

SIZE = 128


@pytest.fixture(scope="module")
def pictures() -> list[SyntheticPicture]:
    return [generate(seed) for seed in range(80)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "generated"
    write_dataset(root, num_train=6, num_val=4, size=SIZE, seed=3)
    return root


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_there_are_enough_objects_and_parts_with_names_like_partimagenets() -> None:
    assert len(SUPERCATEGORIES) >= 6 and len(CLASS_NAMES) >= 20
    assert CLASS_NAMES[0] == "Quadruped Head" and len(set(CLASS_NAMES)) == len(CLASS_NAMES) == BACKGROUND
    assert sum(len(parts) for parts in PARTS.values()) == len(CATEGORIES)


def test_every_class_appears(pictures: list[SyntheticPicture]) -> None:
    seen = {i.category_id for p in pictures for i in p.instances}
    assert seen == set(range(BACKGROUND))


def test_masks_are_disjoint_and_together_are_the_part_map(pictures: list[SyntheticPicture]) -> None:
    for picture in pictures:
        assert picture.image.dtype == np.uint8 and picture.image.shape == (256, 256, 3)
        assert picture.part_map.dtype == np.int32 and 2 <= len(picture.instances) <= MAX_PARTS
        painted = np.full_like(picture.part_map, BACKGROUND)
        for instance in picture.instances:
            assert instance.mask.sum() >= MIN_PIXELS
            assert (painted[instance.mask] == BACKGROUND).all()
            painted[instance.mask] = instance.category_id
            assert SUPERCATEGORIES[picture.objects[instance.object_id]] == CATEGORIES[instance.category_id][0]
        assert (painted == picture.part_map).all()


def test_a_filled_box_is_a_poor_mask(pictures: list[SyntheticPicture]) -> None:
    filled = []
    for picture in pictures:
        for instance in picture.instances:
            x0, y0, x1, y1 = mask_to_box(instance.mask)
            filled.append(instance.mask.sum() / ((x1 - x0) * (y1 - y0)))
    # 0.53 over 200 pictures; the box-prompted mask has to beat this.
    assert 0.4 < np.mean(filled) < 0.6


def test_the_seed_alone_decides() -> None:
    first, again, other = generate(11, SIZE), generate(11, SIZE), generate(12, SIZE)
    assert (first.image == again.image).all() and (first.part_map == again.part_map).all()
    assert (first.image != other.image).any()


def test_a_size_too_small_for_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="size: expected at least 64 pixels"):
        generate(0, 32)


def test_equal_arguments_write_equal_bytes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, num_train=6, num_val=4, size=SIZE, seed=3)
    assert _bytes(tmp_path) == _bytes(dataset)


@pytest.mark.parametrize(
    ("num_train", "num_val", "seed", "message"),
    [(0, 1, 0, "num_train: expected 1"), (1, -1, 0, "num_val: expected 1"), (1, 1, -1, "seed: expected at least 0")],
)
def test_impossible_arguments_are_refused(
    tmp_path: Path, num_train: int, num_val: int, seed: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path, num_train, num_val, SIZE, seed)


def test_the_layout_is_partimagenets(dataset: Path) -> None:
    for split, count in (("train", 6), ("val", 4)):
        coco = json.loads((dataset / "annotations" / split / f"{split}.json").read_text())
        assert [c["id"] for c in coco["categories"]] == list(range(BACKGROUND))
        assert coco["categories"][1] == {"id": 1, "name": "Quadruped Ear", "supercategory": "Quadruped"}
        stems = sorted(Path(i["file_name"]).stem for i in coco["images"])
        assert len(stems) == count
        assert sorted(p.stem for p in (dataset / "images" / split).glob("*.JPEG")) == stems
        for stem in stems:
            label = np.array(Image.open(dataset / "annotations" / split / f"{stem}.png"))
            whole = np.array(Image.open(dataset / "annotations" / f"{split}_whole" / f"{stem}.png"))
            assert label.dtype == np.uint8 and label.shape == whole.shape == (SIZE, SIZE)
            assert ((label == BACKGROUND) == (whole == len(SUPERCATEGORIES))).all()
            about = json.loads((dataset / "annotations" / split / f"{stem}.json").read_text())
            assert about == {"imgHeight": SIZE, "imgWidth": SIZE}


def test_json_and_label_map_say_the_same(dataset: Path) -> None:
    for split in ("train", "val"):
        coco = json.loads((dataset / "annotations" / split / f"{split}.json").read_text())
        for image in coco["images"]:
            label = np.array(Image.open(dataset / "annotations" / split / f"{Path(image['file_name']).stem}.png"))
            painted = np.full((SIZE, SIZE), BACKGROUND)
            for annotation in (a for a in coco["annotations"] if a["image_id"] == image["id"]):
                mask = segmentation_to_mask(annotation["segmentation"], SIZE, SIZE)
                x0, y0, x1, y1 = mask_to_box(mask)
                assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
                assert annotation["area"] == mask.sum()
                painted[mask] = annotation["category_id"]
            assert (painted == label).all()


def test_the_written_data_set_can_be_registered_and_read(dataset: Path, tmp_path: Path) -> None:
    description = tmp_path / "generated_parts.yaml"
    description.write_text(
        f"name: generated_parts\nlayout: partimagenet\nroot: {dataset}\nsplits:\n"
        "  train: {images: images/train, annotations: annotations/train}\n"
    )
    (name,) = register_descriptions([str(description)])
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    assert len(records) == 6 and metadata.thing_classes == list(CLASS_NAMES)
    part_map = read_part_map(records[0], metadata)
    assert part_map.shape == read_rgb(records[0]["file_name"]).shape[:2] == (SIZE, SIZE)
    assert set(np.unique(part_map)) == {a["category_id"] for a in records[0]["annotations"]} | {BACKGROUND}


def test_less_variety_is_more_alike_and_as_reproducible():
    def spread(variety: float) -> float:
        """Standard deviation over pictures of the mean colour of aeroplane bodies."""
        colours = []
        for seed in range(150):
            picture = generate(seed, 96, variety)
            mask = picture.part_map == CLASS_NAMES.index("Aeroplane Body")
            if mask.any():
                colours.append(picture.image[mask].mean(0))
        return float(np.std(colours, axis=0).mean())

    assert spread(0.0) < 0.8 * spread(1.0)
    one, other = generate(3, 96, 0.4), generate(3, 96, 0.4)
    assert np.array_equal(one.image, other.image) and np.array_equal(one.part_map, other.part_map)
    with pytest.raises(ValueError, match=r"variety: expected 0\.\.1, got 2"):
        generate(0, 96, 2)
