"""PartPredictor: pictures in any form in, parts out, and clear words for what it cannot use."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from wps_sam import PartPredictor, predictor
from wps_sam.cli import run_command
from wps_sam.config import read_config
from wps_sam.masks import mask_to_box, segmentation_to_mask
from wps_sam.outputs import RECORD

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from safetensors.torch import load_file, save_file

WOMAN = Path(__file__).resolve().parents[1] / "docs" / "photo.jpg"


@pytest.fixture(scope="module")
def find_parts(tiny_model: Any) -> PartPredictor:
    return PartPredictor(tiny_model.config_file, tiny_model.safetensors)


@pytest.fixture(scope="module")
def find_with(tiny_model_of_a_family: Any) -> PartPredictor:
    """With a segmenter of each family."""
    return PartPredictor(tiny_model_of_a_family.config_file, tiny_model_of_a_family.safetensors)


@pytest.fixture(scope="module")
def photo(tiny_parts: Any) -> Path:
    return sorted((tiny_parts.root / "images" / "val").glob("*.JPEG"))[0]


@pytest.fixture(scope="module")
def shipped() -> PartPredictor:
    return PartPredictor()


def assert_same(one: predictor.PartPrediction, other: predictor.PartPrediction) -> None:
    assert one.names == other.names
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    # A few pixels lie so near the threshold that the order of additions decides.
    assert (one.masks != other.masks).mean() < 1e-3
    assert (one.part_map != other.part_map).mean() < 1e-3


# ---------------------------------------------------------------- what comes out


def test_result_fits_together(find_with: PartPredictor, photo: Path, tiny_parts: Any) -> None:
    found = find_with(photo)
    count = len(found)
    assert count > 0
    assert found.image.shape == (64, 64, 3) and found.file_name == str(photo)
    assert found.class_names == tiny_parts.classes
    assert found.names == [tiny_parts.classes[c] for c in found.classes]
    assert found.masks.shape == (count, 64, 64) and found.masks.dtype == bool
    assert (np.diff(found.scores) <= 0).all() and 0 < found.scores.min() and found.scores.max() <= 1
    np.testing.assert_allclose(found.boxes, [mask_to_box(mask) for mask in found.masks])
    assert found.part_map.shape == (64, 64) and found.part_map.dtype == np.int64
    painted = set(np.unique(found.part_map).tolist()) - {len(tiny_parts.classes)}
    assert painted and painted <= set(found.classes.tolist())


def test_it_is_what_the_model_says(find_with: PartPredictor, photo: Path) -> None:
    # 64 x 64 is enlarged to the network's 512 x 512, of another segmenter to less.
    side = find_with.encoder.image_size
    image = Image.open(photo).resize((side, side), Image.Resampling.BILINEAR)
    tensor = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    with torch.no_grad():
        output = find_with.model([{"image": tensor, "height": 64, "width": 64}])[0]
    found = find_with(photo)
    # Of parts of one name that cover each other mostly, here all, one is left.
    assert set(output["instances"].pred_classes.tolist()) == set(found.classes.tolist())
    assert found.scores[0] == pytest.approx(float(output["instances"].scores.max()), abs=1e-5)
    assert (output["sem_seg"].argmax(0).numpy() != found.part_map).mean() < 1e-3


def test_draws_saves_and_describes(find_parts: PartPredictor, photo: Path, tmp_path: Path) -> None:
    found = find_parts(photo)
    found.save(tmp_path / "parts.png")
    saved = np.asarray(Image.open(tmp_path / "parts.png"))
    assert np.array_equal(saved, found.draw()) and saved.shape[1] > 2 * 640
    described = json.loads(json.dumps(found.to_dict()))
    assert described["file_name"] == str(photo) and (described["height"], described["width"]) == (64, 64)
    assert [part["name"] for part in described["parts"]] == found.names
    for part, mask in zip(described["parts"], found.masks):
        assert np.array_equal(segmentation_to_mask(part["mask"], 64, 64), mask)


def test_confidence_alone_says_what_is_left_out(shipped: PartPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    by_default = shipped(WOMAN)
    found = {}
    for confidence in (0.15, 0.5):
        monkeypatch.setattr(shipped, "confidence", confidence)
        found[confidence] = shipped(WOMAN)
    # Also parts that are likelier no part, which the evaluation's rule leaves out.
    assert len(found[0.15]) > len(by_default) and 0.15 <= found[0.15].scores.min() < by_default.scores.min()
    assert 0 < len(found[0.5]) < len(by_default) and found[0.5].scores.min() >= 0.5


def test_a_part_is_found_once(shipped: PartPredictor) -> None:
    parts = shipped(WOMAN)
    masks = parts.masks.reshape(len(parts), -1).astype(np.float32)
    shared, areas = masks @ masks.T, masks.sum(axis=1)
    iou = np.triu(shared / (areas[:, None] + areas - shared), 1)
    same_name = parts.classes[:, None] == parts.classes
    assert iou[same_name].max() <= 0.5 < iou[~same_name].max()


def test_a_large_photo_is_answered_small_and_enlarged(shipped: PartPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = shipped(WOMAN)
    # Large is what has four times as many pixels as a model is asked for.
    monkeypatch.setattr(predictor, "WORKING_PIXELS", exact.part_map.size // 4)
    parts = shipped(WOMAN)
    assert parts.coarse_map.shape == (267, 195) and parts.part_map.shape == exact.part_map.shape == (534, 390)
    assert (parts.part_map == exact.part_map).mean() > 0.99
    assert parts.names == exact.names
    for part, expected in zip(parts, exact):
        assert part.score == expected.score
        # The smallest has some 1,000 pixels, of which its border is a part that tells.
        assert (expected.mask & part.mask).sum() / (expected.mask | part.mask).sum() > 0.85
        np.testing.assert_allclose(part.box, mask_to_box(part.mask), atol=2)


def test_where_nothing_is_sure_enough_all_is_background(tiny_model: Any, photo: Path) -> None:
    nothing = PartPredictor(tiny_model.config_file, tiny_model.safetensors, confidence=1.0)(photo)
    assert len(nothing) == 0 and (nothing.part_map == len(nothing.class_names)).all()
    assert nothing.draw().size and nothing.to_dict()["parts"] == []


def test_compare_shows_the_ground_truth(tiny_model: Any, tiny_parts: Any) -> None:
    find = PartPredictor(tiny_model.config_file)  # the weights that training left in OUTPUT_DIR
    name = tiny_parts.split("val")
    record, metadata = DatasetCatalog.get(name)[0], MetadataCatalog.get(name)
    assert find.compare(record, metadata).shape[1] > 3 * 640
    MetadataCatalog.get("other_parts_for_compare").set(thing_classes=["wheel"])
    with pytest.raises(ValueError, match="other_parts_for_compare: its 1 classes are not the 3"):
        find.compare(record, MetadataCatalog.get("other_parts_for_compare"))


def test_compare_shows_true_boxes_where_there_are_no_masks(
    tiny_model: Any, tiny_parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(predictor, "side_by_side", lambda *_, **given: drawn.update(given))
    find = PartPredictor(tiny_model.config_file, tiny_model.safetensors)
    name = tiny_parts.split("val")
    record, metadata = DatasetCatalog.get(name)[0], MetadataCatalog.get(name)
    boxed = [{key: a[key] for key in a if key != "segmentation"} for a in record["annotations"]]
    find.compare({**record, "annotations": boxed, "sem_seg_file_name": None}, metadata)
    classes, boxes = drawn["true_boxes"]
    assert classes == [a["category_id"] for a in boxed] and classes
    x, y, width, height = boxed[0]["bbox"]
    assert boxes[0].tolist() == [x, y, x + width, y + height]
    # Of what has a mask no box is drawn.
    find.compare(record, metadata)
    assert drawn["true_boxes"][0] == [] and drawn["true_boxes"][1].shape == (0, 4)


def test_its_repr_names_its_parts_and_weights(find_parts: PartPredictor, tiny_parts: Any) -> None:
    said = repr(find_parts)
    assert said.startswith(f"PartPredictor(3 parts: {', '.join(tiny_parts.classes)}; ") and said.endswith(" on cpu)")


# ---------------------------------------------------------------- what goes in


def test_path_array_and_pil_image_are_the_same_picture(find_parts: PartPredictor, photo: Path) -> None:
    expected = find_parts(photo)
    with Image.open(photo) as image:
        assert_same(find_parts(image), expected)
        assert_same(find_parts(np.asarray(image)), expected)
    assert_same(find_parts(str(photo)), expected)


def test_batches_give_what_single_pictures_give(find_parts: PartPredictor, tiny_parts: Any) -> None:
    photos = sorted((tiny_parts.root / "images" / "val").glob("*.JPEG"))
    images = [*photos[:2], np.zeros((30, 50, 3), np.uint8)]
    together = find_parts.predict_batch(iter(images), batch_size=2)
    assert [p.image.shape for p in together] == [(64, 64, 3), (64, 64, 3), (30, 50, 3)]
    for image, found in zip(images, together):
        assert_same(found, find_parts(image))
    assert find_parts.predict_batch([]) == []
    stack = np.stack([found.image for found in together[:2]])
    for form in (stack, torch.from_numpy(stack).permute(0, 3, 1, 2)):
        for found, expected in zip(find_parts.predict_batch(form), together[:2], strict=True):
            assert_same(found, expected)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P", "RGBA", "I;16"])
def test_every_mode_of_pil_images(find_parts: PartPredictor, photo: Path, mode: str) -> None:
    with Image.open(photo) as image:
        converted = (
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
            if mode == "I;16"
            else image.convert(mode)
        )
    found = find_parts(converted)
    assert found.image.shape == (64, 64, 3) and found.image.dtype == np.uint8
    if mode == "I;16":
        assert_same(found, find_parts(image.convert("L")))


def test_files_and_pil_images_are_turned_upright(find_parts: PartPredictor, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "lying.png", exif=exif)
    found = find_parts(tmp_path / "lying.png")
    assert found.image.shape == (50, 30, 3)
    with Image.open(tmp_path / "lying.png") as opened:
        assert np.array_equal(find_parts(opened).image, found.image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 8000)])
def test_extreme_sizes(find_parts: PartPredictor, height: int, width: int) -> None:
    found = find_parts(np.full((height, width, 3), 200, np.uint8))
    assert found.part_map.shape == (height, width) and found.masks.shape[1:] == (height, width)
    assert found.draw().size


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"picture 0: expected a path, .* got a uint8 array \[4, 4, 5\]"),
        (Image.new("RGB", (0, 5)), "expected pixels, got 0 x 5"),
        (Image.new("F", (5, 5)), "floating point"),
        (None, "got NoneType$"),
        (["a.jpg", "b.jpg"], "got list; predict_batch takes several pictures"),
        ("nowhere.jpg", "nowhere.jpg: the file does not exist"),
    ],
)
def test_refuses_what_is_no_picture(find_parts: PartPredictor, image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_parts(image)


def test_refuses_a_truncated_file_and_names_its_place(find_parts: PartPredictor, photo: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:300])
    with pytest.raises(ValueError, match="cut.jpg"):
        find_parts(cut)
    with pytest.raises(ValueError, match="picture 1: .* got int"):
        find_parts.predict_batch([photo, 5])


def test_refuses_one_picture_as_a_batch(find_parts: PartPredictor, photo: Path) -> None:
    for one in (photo, str(photo), np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4)):
        with pytest.raises(ValueError, match="expected several pictures, got one"):
            find_parts.predict_batch(one)
    with pytest.raises(ValueError, match="batch_size: expected 1 or more, got 0"):
        find_parts.predict_batch([photo], batch_size=0)


# ---------------------------------------------------------------- config, weights, names


def test_without_arguments_it_takes_what_is_shipped(
    tiny_model: Any, photo: Path, find_parts: PartPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "SHIPPED_WEIGHTS", tiny_model.safetensors)
    monkeypatch.setattr(predictor, "SHIPPED_CONFIG", tiny_model.config_file)
    assert_same(PartPredictor()(photo), find_parts(photo))


def test_the_shipped_model_works_from_anywhere(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    find = PartPredictor()
    assert len(find.class_names) == find.cfg.MODEL.PROMPTER.NUM_CLASSES == 16
    assert {"hair", "skin", "footwear"} < set(find.class_names)
    assert find(photo).part_map.shape == (64, 64)


def test_safetensors_bring_their_names_and_need_no_data_set(tiny_model: Any, tiny_parts: Any, photo: Path) -> None:
    elsewhere = ("DATASETS.DESCRIPTIONS", ["nowhere.yaml"], "MODEL.PROMPTER.NUM_CLASSES", 7)
    find = PartPredictor(tiny_model.config_file, tiny_model.safetensors, opts=elsewhere)
    assert find.class_names == tiny_parts.classes
    with pytest.raises(ValueError, match="nowhere.yaml"):
        PartPredictor(tiny_model.config_file, tiny_model.weights, opts=elsewhere)


def test_the_last_checkpoint_is_found_and_gives_the_same(
    tiny_model: Any, find_parts: PartPredictor, photo: Path
) -> None:
    assert_same(PartPredictor(tiny_model.config_file)(photo), find_parts(photo))


def test_names_that_are_missing_or_damaged(tiny_model: Any, tiny_parts: Any, tmp_path: Path) -> None:
    weights = load_file(tiny_model.safetensors)
    nameless, wrong = tmp_path / "nameless.safetensors", tmp_path / "wrong.safetensors"
    save_file(weights, nameless)
    save_file(weights, wrong, {"class_names": '{"0": "wheel"}'})
    assert PartPredictor(tiny_model.config_file, nameless).class_names == tiny_parts.classes
    with pytest.raises(ValueError, match=r"wrong.safetensors: class_names: expected a JSON list"):
        PartPredictor(tiny_model.config_file, wrong)
    with pytest.raises(ValueError, match="the config has no DATASETS.TRAIN"):
        PartPredictor(tiny_model.config_file, nameless, opts=("DATASETS.TRAIN", ()))
    with pytest.raises(ValueError, match="'strange_train', which is not registered"):
        PartPredictor(tiny_model.config_file, nameless, opts=("DATASETS.TRAIN", ("strange_train",)))


def test_weights_and_config_that_do_not_fit(tiny_model: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(os.urandom(64))
    for arguments, message in [
        ({"weights": "nowhere.pth"}, "weights nowhere.pth: the file does not exist"),
        ({"config_file": "nowhere.yaml"}, "config nowhere.yaml: the file does not exist"),
        ({"weights": broken}, "broken.safetensors: not a readable checkpoint"),
        ({"device": "abacus"}, "device 'abacus': torch cannot use it"),
        ({"confidence": 1.5}, "confidence: expected a number from 0 to 1, got 1.5"),
        ({"tiles": 2}, "tiles: expected rows and columns of 1 or more, got 2"),
        ({"weights": None, "opts": ("OUTPUT_DIR", str(tmp_path))}, "holds no checkpoint"),
        ({"opts": ("MODEL.DETR_PROMPTER.FFN_DIM", 32)}, "does not fit the model"),
    ]:
        given = {"config_file": tiny_model.config_file, "weights": tiny_model.safetensors, **arguments}
        with pytest.raises(ValueError, match=message):
            PartPredictor(**given)


def test_a_config_for_gpus_runs_on_the_cpu_where_there_is_none(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    find = PartPredictor(tiny_model.config_file, tiny_model.safetensors, opts=("MODEL.DEVICE", "cuda"))
    assert find.model.device.type == "cpu"


# ---------------------------------------------------------------- classes by name


@pytest.fixture(scope="module")
def by_name(tiny_model: Any, tiny_parts: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config and weights of a model that takes its classes by name and has learned nothing."""
    folder = tmp_path_factory.mktemp("by_name")
    cfg = read_config(tiny_model.config_file, ["MODEL.PROMPTER.CLASSIFIER", "text"])
    torch.manual_seed(0)
    model = build_model(cfg)
    model.prompter.classifier.no_part_bias.data.fill_(-5)
    (folder / "config.yaml").write_text(cfg.dump())
    weights = folder / "weights.safetensors"
    save_file(model.state_dict(), weights, {"class_names": json.dumps(tiny_parts.classes)})
    return folder / "config.yaml", weights


def test_names_can_be_asked_for(by_name: tuple[Path, Path], tiny_parts: Any, photo: Path) -> None:
    assert PartPredictor(*by_name)(photo).class_names == tiny_parts.classes
    names = ("Animal Head", "zebra's stripe", "zebra's hoof", "zebra's mane")
    asked = PartPredictor(*by_name, names=names)
    found = asked(photo)
    assert found.class_names == names and len(found) and set(found.names) <= set(names)
    assert asked.model.vocabulary.object_names == ("Animal Head", "zebra")


def test_a_model_of_numbered_classes_can_not_be_asked_for_names(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="CLASSIFIER text"):
        PartPredictor(tiny_model.config_file, tiny_model.safetensors, names=["zebra's stripe"])


def test_compare_asks_for_the_data_sets_names(by_name: tuple[Path, Path], tiny_parts: Any) -> None:
    predictor_ = PartPredictor(*by_name, names=["zebra's stripe"])
    name = tiny_parts.split("val")
    predictor_.compare(DatasetCatalog.get(name)[0], MetadataCatalog.get(name))
    assert predictor_.class_names == tiny_parts.classes


def test_shares_of_predict_make_the_files_of_one_run(tiny_model, tiny_parts, tmp_path, capsys):
    """Of a network's scores, too, every digit; three pictures in batches of two."""
    pictures = sorted(map(str, (tiny_parts.root / "images" / "train").iterdir()))[:3]
    command = [*pictures, "--config-file", str(tiny_model.config_file), "--weights", str(tiny_model.weights)]
    command += ["--batch-size", "2", "--confidence", "0", "--save", "json", "labels", "--output"]

    def predict(folder, *more):
        assert run_command("predict", [*command, str(tmp_path / folder), *more]) == 0
        made = [path for path in (tmp_path / folder).rglob("*") if path.is_file() and path.name != RECORD]
        return {path.name: path.read_bytes() for path in made}

    whole = predict("whole")
    assert len(whole) == 2 * 3 + 3
    mirror = ("--mirror", f"file://{tmp_path}/mirror")
    assert len(predict("a", "--shard", "1/2", *mirror)) == 3 and len(predict("b", "--shard", "0/2", *mirror)) == 5
    capsys.readouterr()
    assert predict("last", "--resume", *mirror) == whole
    assert {path.name: path.read_bytes() for path in (tmp_path / "mirror").iterdir()} == whole
    assert "3 of 3 were there already" in capsys.readouterr().out
