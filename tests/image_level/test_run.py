"""Runs end to end: coloured squares and a stub that knows colours, files that continue, and nothing peeked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.data.sources.coco import load_vocabulary
from wps_sam.encoders.clip import ImageView
from wps_sam.encoders.semantic import build_semantic_encoder
from wps_sam.image_level import run as run_module
from wps_sam.image_level.__main__ import main
from wps_sam.image_level.crf import CRFSettings
from wps_sam.image_level.networks import GradCAMNetwork, TagNetwork, exemplar_map, fit_patches, fit_tags
from wps_sam.image_level.results import evaluate, export, regions
from wps_sam.image_level.run import Run
from wps_sam.image_level.scores import POWERS
from wps_sam.image_level.settings import ImageLevelSettings, read_values
from wps_sam.image_level.superpixels import Superpixel
from wps_sam.image_level.words import Words

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "image_level").glob("*.yaml"))
COCO_NAMES = {
    *("person", "motorcycle", "airplane", "bird", "backpack", "umbrella", "handbag", "tie", "snowboard", "spoon"),
    *("baseball glove", "chair", "couch", "potted plant", "dining table", "tv", "remote", "hair drier"),
}
CLASSES = ["red", "green", "blue"]
COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)
GROUND = 120
SIZE = (64, 96)
# Of each picture, the class and the square (x0, y0, x1, y1) of its parts.
SCENES = [
    [(0, (8, 8, 32, 40)), (1, (48, 16, 80, 48))],
    [(2, (16, 16, 64, 56))],
    [(0, (40, 8, 72, 32)), (2, (8, 40, 40, 60)), (1, (80, 40, 92, 60))],
    [],
]


@pytest.fixture
def data(tmp_path):
    """A folder of pictures, tags.json beside it, and values of settings."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    tags = {}
    for i, scene in enumerate(SCENES):
        image = np.full((*SIZE, 3), GROUND, np.uint8)
        for c, (x0, y0, x1, y1) in scene:
            image[y0:y1, x0:x1] = COLOURS[c]
        Image.fromarray(image).save(folder / f"{i}.png")
        tags[f"{i}.png"] = [CLASSES[c] for c, _ in scene]
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    values = {
        "tags": str(tmp_path / "tags.json"),
        "images": str(folder),
        "classes": CLASSES,
        "sam_arch": "vit_tiny",
        "sam_weights": "",
        "weights": "",
        "backgrounds": ["ground"],
        "maps_tags": {"affinity": ""},
        "seeds": {"coarse": 1.0},
    }
    return values


class KnowsColours(GradCAMNetwork):
    """Text k is colour k: activations are how near a pixel's colour is to each, and grey is the background."""

    num_classes = 3

    def view(self, image, affinity=""):
        pixels = torch.from_numpy(image.astype(np.float64) / 255)
        known = torch.from_numpy(np.concatenate([COLOURS, np.full((1, 3), GROUND)]) / 255)
        near = torch.exp(-20 * ((pixels[:, :, None] - known) ** 2).sum(-1)).flatten(0, 1)[None].requires_grad_()
        return ImageView(image.shape[:2], near, 0, near.mean(1))

    def logits(self, view):
        return 5 * view.features

    def others(self, tags):
        return torch.tensor([3])


def of_colour(encoder, image, settings, area=None):
    """SAM's stub: the region of each colour that is there, and a nested whole around two of them."""
    found = []
    for value in np.unique(image.reshape(-1, 3), axis=0):
        mask = (image == value).all(-1)
        found.append(Superpixel(mask, 0, 0.9, 0.9, (0.0, 0.0), (0, 0, image.shape[1], image.shape[0])))
    return found


def pieces_of(labels):
    """SAM's stub: every value of a label map as one mask."""
    masks = [labels == value for value in np.unique(labels)]
    return [Superpixel(mask, 0, 0.9, 0.9, (0.0, 0.0), (0, 0, *labels.shape[::-1])) for mask in masks]


@pytest.fixture
def stubs(monkeypatch):
    monkeypatch.setattr(run_module, "superpixels", of_colour)
    monkeypatch.setattr(run_module, "load_encoder", lambda *args: None)
    monkeypatch.setattr(Words, "network", lambda self, words: KnowsColours())


def truth(scene):
    labels = np.full(SIZE, len(CLASSES))
    for c, (x0, y0, x1, y1) in scene:
        labels[y0:y1, x0:x1] = c
    return labels


def stages(run):
    run.tags()
    run.masks()
    run.cams("tags")
    run.seeds("coarse")
    return export(run, "coarse")


def test_squares_are_found_exactly_and_train_as_labels(data, stubs, tmp_path):
    run = Run(tmp_path / "squares_run", read_values(ImageLevelSettings, data))
    assert stages(run) == sum(map(len, SCENES))
    for i, scene in enumerate(SCENES):
        assert np.array_equal(np.asarray(Image.open(run.folder / "coarse" / f"{i}.png")), truth(scene))
    (name,) = register_descriptions([str(run.folder / "description.yaml")])
    records = {int(r["file_name"][-5]): r for r in DatasetCatalog.get(name)}
    for i, scene in enumerate(SCENES):
        found = sorted((a["category_id"], *a["bbox"]) for a in records[i]["annotations"])
        assert found == sorted((c, x0, y0, x1 - x0, y1 - y0) for c, (x0, y0, x1, y1) in scene)
        assert records[i].get("tags", []) == sorted({c for c, _ in scene})
    report = json.loads((run.folder / "coarse_empty.json").read_text())
    assert report["red"] == {"present": 0.5, "tagged": 2, "empty": 0}


def files_of(run):
    return {
        str(path.relative_to(run.folder)): path.read_bytes()
        for path in sorted(run.folder.rglob("*"))
        # It logs what was written, in order.
        if path.is_file() and path.name != ".made_by_wps_sam"
    }


def test_a_damaged_picture_is_left_out_with_its_reason_and_the_others_go_on(data, stubs, tmp_path, caplog):
    damaged = Path(data["images"]) / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    run = Run(tmp_path / "run", read_values(ImageLevelSettings, data))
    assert stages(run) == sum(len(scene) for i, scene in enumerate(SCENES) if i != 1)
    assert "1.png" in caplog.text and f"1 of {len(SCENES)} pictures can't be read" in caplog.text
    assert "1" not in json.loads((run.folder / "tags.json").read_text())["pictures"]


def test_twice_is_the_same_and_interrupted_too(data, stubs, tmp_path, monkeypatch):
    settings = read_values(ImageLevelSettings, data)
    whole = Run(tmp_path / "one" / "run", settings)
    stages(whole)
    broken = Run(tmp_path / "two" / "run", settings)
    broken.tags()
    count = 0

    def dies(encoder, image, given):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return of_colour(encoder, image, given)

    monkeypatch.setattr(run_module, "superpixels", dies)
    with pytest.raises(KeyboardInterrupt):
        broken.masks()
    assert len(list((broken.folder / "masks").glob("?.json"))) == 2
    stages(Run(tmp_path / "two" / "run", settings))
    one, two = files_of(whole), files_of(broken)
    assert one.keys() == two.keys()
    for name in one:
        # The export says where it lies.
        assert name == "description.yaml" or one[name] == two[name], name


def test_with_objects_nothing_beside_them_is_looked_at(data, stubs, tmp_path, monkeypatch):
    """Boxes of the squares: all that was found before is, exactly, and SAM, the maps and the words see crops alone."""
    objects = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "square"}]}
    for i, scene in enumerate(SCENES):
        objects["images"].append({"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]})
        for _, (x0, y0, x1, y1) in scene:
            number = len(objects["annotations"])
            box = [x0, y0, x1 - x0, y1 - y0]
            objects["annotations"].append({"id": number, "image_id": i, "category_id": 0, "bbox": box, "iscrowd": 0})
    (tmp_path / "objects.json").write_text(json.dumps(objects))
    # Beside the object of the second picture lies something of its colour, which is not asked for.
    image = np.array(Image.open(Path(data["images"]) / "1.png"))
    image[:6, :6] = COLOURS[2]
    Image.fromarray(image).save(Path(data["images"]) / "1.png")
    seen, areas = [], []

    def crops(encoder, image, settings, area=None):
        seen.append(image.shape[:2])
        areas.append(area)
        return of_colour(encoder, image, settings)

    monkeypatch.setattr(run_module, "superpixels", crops)
    run = Run(tmp_path / "run", read_values(ImageLevelSettings, {**data, "objects": str(tmp_path / "objects.json")}))
    stages(run)
    for i, scene in enumerate(SCENES):
        assert np.array_equal(np.asarray(Image.open(run.folder / "coarse" / f"{i}.png")), truth(scene))
    # The second: 48 x 40 at (16, 16), a tenth more on each side.
    assert seen[1] == (48, 58) and areas[1] == 48 * 40 and seen[3] == SIZE and areas[3] is None
    assert json.loads((run.folder / "tags.json").read_text())["pictures"]["1"]["crop"] == [11, 12, 69, 60]
    assert run.maps_of(run.pictures[1], "tags")[0].shape == (1, 48, 58)
    again = Run(run.folder, run.settings)
    assert again.pictures == run.pictures and again.pictures[1].look().shape == (48, 58, 3)
    with pytest.raises(ValueError, match=r"of other pictures \(objects\)"):
        Run(run.folder, read_values(ImageLevelSettings, data))


def test_what_was_made_otherwise_is_refused_and_the_rest_serves_on(data, stubs, tmp_path):
    run = Run(tmp_path / "run", read_values(ImageLevelSettings, data))
    with pytest.raises(ValueError, match="is missing; run the stage cams first"):
        run.seeds("coarse")
    stages(run)
    other = {**data, "classes": [*CLASSES, "pink"]}
    with pytest.raises(ValueError, match=r"settings.yaml: this folder is of other pictures \(classes\)"):
        Run(tmp_path / "run", read_values(ImageLevelSettings, other))
    # Another power needs no other masks and no other maps.
    again = Run(tmp_path / "run", read_values(ImageLevelSettings, {**data, "seeds": {"coarse": 0.5}}))
    again.masks()
    again.cams("tags")
    with pytest.raises(ValueError, match=r"coarse: was made with other settings"):
        again.seeds("coarse")
    shutil.rmtree(run.folder / "coarse")
    again.seeds("coarse")
    changed = Run(tmp_path / "run", read_values(ImageLevelSettings, {**data, "superpixels": {"points_per_side": 3}}))
    with pytest.raises(ValueError, match=r"masks: was made with other settings"):
        changed.masks()
    (run.folder / "words").mkdir()
    (run.folder / "words" / "tags.safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match="was made with other settings, words"):
        run.cams("tags")


def test_what_a_network_cannot_learn_is_told(data, tmp_path):
    run = Run(tmp_path / "run", read_values(ImageLevelSettings, data))
    with pytest.raises(ValueError, match=r"network 'clip' has no words 'match'; it learns tags, seeds, background"):
        run.fit("match")
    with pytest.raises(ValueError, match="fit there"):
        Run(tmp_path / "two", read_values(ImageLevelSettings, data), words_from=tmp_path / "run").fit("tags")
    with pytest.raises(ValueError, match=r"texts: \['rde'\] are not among"):
        _ = Run(tmp_path / "three", read_values(ImageLevelSettings, {**data, "texts": {"rde": "x"}})).words
    with pytest.raises(ValueError, match=r"maps_tags.affinity: of network 'clip' expected one of"):
        read_values(ImageLevelSettings, {**data, "maps_tags": {"affinity": "cosines"}})


def test_labels_beside_the_pictures_change_no_byte(data, stubs, tmp_path):
    settings = read_values(ImageLevelSettings, data)
    stages(Run(tmp_path / "run", settings))
    before = files_of(Run(tmp_path / "run", settings))
    shutil.rmtree(tmp_path / "run")
    noise = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    for i in range(len(SCENES)):
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{i}_labels.png")
    stages(Run(tmp_path / "run", settings))
    assert files_of(Run(tmp_path / "run", settings)) == before


def test_the_command_line_with_a_tiny_clip(data, tiny_encoders, tmp_path, capsys):
    """Every stage, both steps of FMA-WSSS and SemPLeS's background, with random weights of CLIP and of SAM 2: it runs,
    and goes on."""
    short = {"iterations": 2, "warmup": 1, "batch_size": 2, "crop": 32, "long_side": [48, 64]}
    values = {
        **data,
        "sam_arch": "sam2_test",
        "sam_weights": tiny_encoders["sam2_test"],
        "maps_tags": {"affinity": "qk"},
        "maps_seeds": {"affinity": "vv", "js": True},
        "superpixels": {"points_per_side": 2, "crop_n_layers": 0, "pred_iou_thresh": -9, "stability_score_thresh": 0},
        "fit_tags": short,
        "fit_seeds": {**short, "pattern": "{name}[4].", "shared": False, "named_backgrounds": False, "crop_tags": True},
        "fit_background": {
            **short,
            "pattern": "a photo of [6]<.>",
            "shared": False,
            "deviation": 0,
            "optimizer": "adamw",
        },
        "refine": 0.05,
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    folder = tmp_path / "run"

    def do(stage, *more):
        return main([stage, "--config-file", str(config), "--run", str(folder), *more])

    for stage in (
        ("tags",), ("masks",), ("fit",), ("cams",), ("seeds",), ("fit", "--words", "background"),
        ("fit", "--words", "seeds"), ("cams", "--words", "seeds"), ("seeds", "--seeds", "fine"),
        ("export", "--seeds", "fine"), ("show", "--picture", "0"),
    ):  # fmt: skip
        assert do(*stage) == 0, capsys.readouterr().err
    assert (folder / "words" / "seeds.csv").read_text().splitlines()[0] == "number,loss"
    nouns = json.loads((folder / "words" / "background_nouns.json").read_text())
    assert list(nouns) == CLASSES and set(nouns["red"]) == {*CLASSES, "ground"}
    assert list(nouns["red"].values()) == sorted(nouns["red"].values(), reverse=True)
    assert do("fit", "--tune-with-truth") == 2
    assert "the truth chooses epochs of match, refine, not of 'tags'" in capsys.readouterr().err
    assert (folder / "show" / "0.png").is_file() and (folder / "instances.json").is_file()
    assert do("tags", "--subset", "2", "side=0", "template=a {name}.") == 0
    assert do("eval") == 2 and "eval needs the truth" in capsys.readouterr().err
    assert do("show", "--picture", "9") == 2 and "there is no picture '9'" in capsys.readouterr().err
    other = main(["cams", "--config-file", str(config), "--run", str(tmp_path / "other"), "--words-from", str(folder)])
    assert other == 0
    first, second = (np.load(f / "cams" / "tags" / "2.npz")["maps"] for f in (folder, tmp_path / "other"))
    assert np.array_equal(first, second) and first.shape[0] == 3


def test_a_class_that_is_always_there_keeps_its_own_text(data, tmp_path):
    """MCL has no picture without it to learn from; of the others the learned words are taken."""
    tags = json.loads(Path(data["tags"]).read_text())
    Path(data["tags"]).write_text(json.dumps({name: sorted({*of_one, "blue"}) for name, of_one in tags.items()}))
    short = {"iterations": 3, "warmup": 0, "batch_size": 4, "crop": 32, "long_side": [48, 64], "learning_rate": 5.0}
    run = Run(tmp_path / "run", read_values(ImageLevelSettings, {**data, "fit_tags": {**short, "shared": False}}))
    plain = run.words.network("tags").texts()
    run.fit("tags")
    learned = run.words.network("tags").texts()
    bank = run.words._bank(run.settings.fit_tags)
    bank.load_state_dict(run.words._read("tags"))
    assert torch.allclose(learned[2], plain[2], atol=1e-5) and not torch.allclose(bank()[2], plain[2], atol=1e-3)
    assert torch.equal(learned[:2], bank()[:2]) and torch.equal(learned[3], bank()[3])


def test_settings_that_are_not_understood_are_refused(data):
    with pytest.raises(ValueError, match=r"unknown settings superpixels\.points; known"):
        read_values(ImageLevelSettings, {**data, "superpixels": {"points": 3}})
    with pytest.raises(ValueError, match="side: expected int, got 'large'"):
        read_values(ImageLevelSettings, {**data, "side": "large"})
    with pytest.raises(ValueError, match="activation, match, refine: expected one above 0"):
        read_values(ImageLevelSettings, {**data, "activation": 0})
    with pytest.raises(ValueError, match="expected one of dataset, tags and label_maps"):
        read_values(ImageLevelSettings, {**data, "dataset": "x"})
    found = read_values(ImageLevelSettings, {**data, "fit_tags": {"learning_rate": "1e-2", "long_side": [3, 4]}})
    assert found.fit_tags.learning_rate == 0.01 and found.fit_tags.long_side == (3, 4)


def test_tags_of_unknown_classes_and_missing_pictures_are_named(data, tmp_path):
    (tmp_path / "tags.json").write_text(json.dumps({"0.png": ["purple"]}))
    with pytest.raises(ValueError, match=r"tags.json: 0.png: \['purple'\] are not among"):
        _ = Run(tmp_path / "run", read_values(ImageLevelSettings, data)).pictures
    (tmp_path / "tags.json").write_text(json.dumps({"7.png": ["red"]}))
    with pytest.raises(ValueError, match="7.png: the picture does not exist"):
        _ = Run(tmp_path / "run", read_values(ImageLevelSettings, data)).pictures


def test_seeds_are_scored_against_the_truth_beside_knowing_nothing(tiny_parts, stubs, tmp_path, monkeypatch):
    """With the truth for masks, and maps that are the truth: 100; the centre and noise are not."""
    from wps_sam.masks import read_part_map, read_rgb

    from detectron2.data import MetadataCatalog

    values = {
        "descriptions": [str(tiny_parts.description)],
        "dataset": tiny_parts.split("train"),
        "maps_tags": {"affinity": ""},
    }
    run = Run(tmp_path / "run", read_values(ImageLevelSettings, values))
    records = {r["file_name"]: r for r in DatasetCatalog.get(values["dataset"])} if run.pictures else {}
    metadata = MetadataCatalog.get(values["dataset"])
    (run.folder / "cams" / "tags").mkdir(parents=True)
    for picture in run.pictures:
        labels = read_part_map(records[picture.file], metadata)
        maps = np.stack([(labels == c) for c in picture.tags]).astype(np.float32)
        np.savez(run.folder / "cams" / "tags" / f"{picture.name}.npz", maps=maps, classes=np.array(picture.tags))
    rows = evaluate(run, "tags")["rows"]
    assert rows["tags"]["mIoU"] == 100 and rows["tags"]["mIoU_with_background"] == 100
    refined = evaluate(Run(run.folder, run.settings, subset=1), "tags", crf=True)["rows"]
    assert list(refined) == ["tags", "tags_crf", "centre", "noise"] and refined["tags_crf"]["curve"].keys() == set(
        POWERS
    )
    assert 60 < refined["tags_crf"]["mIoU"] < 100, "the pictures' noise and soft edges move some labels"
    assert rows["centre"]["mIoU"] < 60 and rows["noise"]["mIoU"] < 60
    # Seeds stand beside what the same masks make of knowing nothing.
    monkeypatch.setattr(
        run_module, "superpixels", lambda encoder, image, settings: pieces_of(labels_of[image.tobytes()])
    )
    labels_of = {read_rgb(p.file).tobytes(): read_part_map(records[p.file], metadata) for p in run.pictures}
    run.masks()
    (run.folder / "cams" / "tags" / "made_from.json").write_text("{}")
    run.seeds("coarse")
    seeds = evaluate(run, "coarse")["rows"]
    assert list(seeds) == ["coarse", "centre", "noise"] and seeds["coarse"]["mIoU"] > 60
    assert max(seeds[name]["mIoU"] for name in ("centre", "noise")) < 60 and seeds["noise"]["at"] == 0.6
    # In a process of its own tags.json is read, and nobody has registered the data set before.
    about = yaml.safe_load(tiny_parts.description.read_text())
    (tmp_path / "never_seen.yaml").write_text(yaml.safe_dump({**about, "name": "never_seen"}))
    run.tags()
    shutil.copytree(run.folder, tmp_path / "never", ignore=shutil.ignore_patterns("settings.yaml"))
    never = {**values, "descriptions": [str(tmp_path / "never_seen.yaml")], "dataset": "never_seen_train"}
    assert evaluate(Run(tmp_path / "never", read_values(ImageLevelSettings, never)), "coarse")["rows"] == seeds
    tuned = evaluate(run, "tags", tune=True)
    assert tuned["tuned_on_the_truth"] and tuned["rows"]["centre"]["mIoU"] >= rows["centre"]["mIoU"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_the_configs_are_read(path):
    settings = read_values(ImageLevelSettings, yaml.safe_load(path.read_text(encoding="utf-8")))
    names = {*settings.classes, *COCO_NAMES, *load_vocabulary("partimagenet").names}
    assert path.read_text(encoding="utf-8").startswith("#") and set(settings.texts) <= names


def test_published_numbers_are_in_the_configs():
    """FMA-WSSS's tables of prompt training and of affinity."""
    voc, coco = (
        read_values(ImageLevelSettings, yaml.safe_load((ROOT / "configs" / "image_level" / name).read_text()))
        for name in ("voc.yaml", "coco.yaml")
    )
    assert (len(voc.classes), len(voc.backgrounds), len(coco.backgrounds)) == (20, 25, 23)
    assert set(voc.backgrounds) - set(coco.backgrounds) == {"keyboard", "sign"}
    assert [(s.fit_tags.iterations, s.fit_tags.stop, s.fit_tags.warmup) for s in (voc, coco)] == [
        (1800, 0, 500),
        (20500, 6150, 1000),
    ]
    assert [(s.fit_seeds.iterations, s.fit_seeds.stop, s.fit_seeds.crop_tags) for s in (voc, coco)] == [
        (17000, 0, True),
        (75000, 45000, False),
    ]
    assert all(f.batch_size * f.accumulate == 16 for s in (voc, coco) for f in (s.fit_tags, s.fit_seeds))
    assert [(s.maps_tags.threshold, s.maps_tags.scores) for s in (voc, coco)] == [(0.4, True), (0.6, False)]
    assert [(s.seeds.coarse, s.seeds.fine) for s in (voc, coco)] == [(0.6, 0.7), (0.4, 1.0)]
    assert voc.superpixels == coco.superpixels and voc.superpixels.pred_iou_thresh == 0.86


def test_semples_published_numbers_are_in_the_configs():
    """Its README's commands: batch, learning rate and weights of the three stages; scales, fusion and CRF of WeakTr."""
    voc, coco = (
        read_values(ImageLevelSettings, yaml.safe_load((ROOT / "configs" / "image_level" / name).read_text()))
        for name in ("voc_semples.yaml", "coco_semples.yaml")
    )
    both = (voc.semples, coco.semples)
    stages = [[(t.batch_size, t.learning_rate) for t in (s.match, s.background, s.refine)] for s in both]
    assert stages[0] == [(64, 5.12e-4), (128, 0.1), (64, 5.12e-4)]
    assert stages[1] == [(32, 5.12e-6), (128, 0.01), (24, 5.12e-6)]
    weights = [(s.match_weight, s.background_weight, s.refine_weight) for s in both]
    assert weights == [(2.4, 0.02, 0.05), (0.75, 0.01, 0.2)]
    assert {(s.epochs, s.seed, s.side, s.weight_decay) for s in both} == {(60, 504, 224, 0.03)}
    assert [s.semples.scales for s in (voc, coco)] == [(1.0, 1.2), (1.0, 0.8, 1.2)]
    assert [(s.semples.reduction, s.semples.pool) for s in (voc, coco)] == [(8, "max"), (4, "mean")]
    assert voc.crf == CRFSettings(10, 0.7, 4.0, 3.0, 83.0, 5.0, 3.0)
    assert coco.crf == CRFSettings(10, 0.7, 3.0, 3.0, 50.0, 5.0, 10.0)
    assert voc.weights == coco.weights == "openai/clip-vit-base-patch32"


def test_voc_layout_is_read_by_its_masks(tmp_path, stubs):
    """Folders, lists and label maps as PASCAL VOC has them: 0 background, 255 nobody knows."""
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets"):
        (tmp_path / name).mkdir()
    labels = np.zeros(SIZE, np.uint8)
    labels[8:40, 8:32], labels[40:44] = 1, 255
    image = np.full((*SIZE, 3), GROUND, np.uint8)
    image[labels == 1] = COLOURS[0]
    Image.fromarray(image).save(tmp_path / "JPEGImages" / "2007_000032.png")
    Image.fromarray(labels).save(tmp_path / "SegmentationClassAug" / "2007_000032.png")
    listed = "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n"
    (tmp_path / "ImageSets" / "train_aug.txt").write_text(listed)
    values = {
        "label_maps": str(tmp_path / "SegmentationClassAug"),
        "names": str(tmp_path / "ImageSets" / "train_aug.txt"),
        "images": str(tmp_path / "JPEGImages"),
        "classes": CLASSES,
        "maps_tags": {"affinity": ""},
        "seeds": {"coarse": 1.0},
    }
    run = Run(tmp_path / "run", read_values(ImageLevelSettings, values))
    assert [p.tags for p in run.pictures] == [(0,)]
    stages(run)
    rows = evaluate(run, "coarse")["rows"]
    assert rows["coarse"]["mIoU_with_background"] == 100
    labels[0, 0] = 9
    Image.fromarray(labels).save(tmp_path / "SegmentationClassAug" / "2007_000032.png")
    with pytest.raises(ValueError, match=r"2007_000032.png: expected 0 to 3 and 255, got \[9\]"):
        _ = Run(tmp_path / "other", read_values(ImageLevelSettings, values)).pictures


def test_regions_of_a_class():
    mask = np.zeros((20, 30), bool)
    mask[2:10, 2:10] = mask[12:18, 12:28] = mask[0, 20] = True
    mask[4:6, 4:6] = False
    found = regions(mask, 40)
    assert [int(one.sum()) for one in found] == [64, 96], "holes are filled, specks left out"
    (together,) = regions(mask, 40, "classes")
    assert together is mask and regions(mask, 999, "classes") == []


def test_a_tag_network_learns_which_feature_is_which_class():
    generator = torch.Generator().manual_seed(0)
    tags = torch.rand(200, 3, generator=generator) < 0.4
    noise = torch.randn(200, 8, generator=generator)
    features = 5 + 30 * noise
    features[:, :3] += 200 * tags
    weight, bias = fit_tags(features, tags)
    right = ((features @ weight.T + bias > 0) == tags).float().mean()
    assert right > 0.95
    # In units of the features' own spread the classes' own stand out.
    assert ((weight * features.std(0)).argmax(1) == torch.arange(3)).all()


def test_a_tag_networks_view_is_of_the_picture_without_its_padding():
    network = TagNetwork(build_semantic_encoder("dinov2", "", 0, 64), torch.randn(2, 32), torch.zeros(2))
    view = network.view(np.random.default_rng(0).integers(0, 255, (40, 80, 3)).astype(np.uint8), "cosine")
    assert view.grid == (2, 4) and view.activations.shape == (1, 8, 32)
    assert torch.allclose(view.affinity[0].diagonal(), torch.ones(8), atol=1e-5)
    assert network.others(torch.tensor([1])).tolist() == [0] and network.logits(view).shape == (1, 2)


def test_a_tag_networks_second_step_learns_patches_of_seeds():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    patches = torch.randn(300, 8, generator=generator)
    patches[torch.arange(300), labels] += 4
    weight, bias = fit_patches(100 * patches + 7, labels, 3)
    assert ((100 * patches + 7) @ weight.T + bias).argmax(1).eq(labels).float().mean() > 0.95
    weight = 0.1 * torch.randn(3, 32, generator=generator)
    network = TagNetwork(build_semantic_encoder("dinov2", "", 0, 64), weight, torch.zeros(3), of_patches=True)
    view = network.view(np.random.default_rng(0).integers(0, 255, (40, 80, 3)).astype(np.uint8))
    both, one = (network.raw_maps(view, torch.tensor(t)) for t in ([1, 0], [1]))
    assert network.num_classes == 2 and both.shape == (2, 2, 4) and 0 < both.min() and (both.sum(0) < 1).all()
    # Fewer tags are against it: more of what is there is this one.
    assert (one[0] > both[0]).all()


def test_exemplars_say_where_a_class_is_that_is_everywhere(data, tmp_path):
    """Of a class that tags say nothing of: one picture with its mask, and the same colour is found elsewhere."""
    rng = np.random.default_rng(0)

    def picture(x):
        image = rng.integers(90, 110, (64, 128, 3)).astype(np.uint8)
        image[:, x : x + 32] = (250, 20, 20)
        mask = np.zeros((64, 128), np.uint8)
        mask[:, x : x + 32] = 1
        return image, mask

    image, mask = picture(16)
    Image.fromarray(image).save(tmp_path / "one.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    network = TagNetwork(build_semantic_encoder("timm/test_resnet", "", 0, 128), torch.zeros(3, 0), torch.zeros(3))
    network.remember({0: (image, mask > 0)})
    other, truth = picture(80)
    view = network.view(other)
    found = exemplar_map(view, *network.exemplars[0])
    inside = torch.from_numpy(truth[::16, ::16] > 0)
    assert found[inside].mean() > found[~inside].mean() + 0.05
    values = {**data, "network": "tags", "semantic_weights": "", "semantic": "dinov2"}
    for given, message in (
        ({"purple": ["a", "b"]}, r"\['purple'\] are not among"),
        ({"red": ["a"]}, "expected a picture and a mask"),
        ({"red": [str(tmp_path / "one.png"), str(tmp_path / "pictures" / "0_none.png")]}, "0_none.png"),
    ):
        run = Run(tmp_path / message[-3:], read_values(ImageLevelSettings, {**values, "exemplars": given}))
        with pytest.raises(ValueError, match=message):
            run.words._with_exemplars(network)
