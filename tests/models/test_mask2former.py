"""Stage II: the published sizes, losses and steps, on fixtures of VOC's layout and on seeds."""

from __future__ import annotations

from pathlib import Path

from wps_sam.config import read_config
from wps_sam.data.label_map_mapper import LabelMapMapper, VariedCrop
from wps_sam.data.part_mask_mapper import to_bytes
from wps_sam.data.photometric import PhotometricDistortion, _Distortion
from wps_sam.data.sources.voc import CLASSES, load_voc2012
from wps_sam.engine.solver import apply_rules, build_optimizer
from wps_sam.models.mask2former import Mask2Former, build_mask2former

import numpy as np
import pytest
import torch
import transformers
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
VOC = str(ROOT / "configs" / "stage_two" / "mask2former_swin_l_voc.yaml")
TINY = ["MODEL.MASK2FORMER.ARCH", "tiny", "MODEL.MASK2FORMER.BACKBONE_WEIGHTS", "", "MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def cfg():
    return read_config(VOC, [*TINY, "MODEL.PROMPTER.NUM_CLASSES", "3", "MODEL.MASK2FORMER.NUM_QUERIES", "5"])


def record(i=0):
    generator = torch.Generator().manual_seed(i)
    labels = torch.full((40, 60), 3)
    labels[5:25, 10:40], labels[30:, 50:] = i, 255
    return {
        "image": torch.randint(0, 255, (3, 40, 60), generator=generator, dtype=torch.uint8),
        "sem_seg": labels,
        "ignore_label": 255,
        "file_name": f"{i}.jpg",
    }


def test_the_published_sizes():
    """Swin-L of 384 pixels, 50 queries, 21 labels, 6 deformable layers and 9 of the decoder; losses 2, 5 and 5."""
    with torch.device("meta"):
        network = build_mask2former("swin_large", "", 20, 50)
    config, backbone = network.config, network.config.backbone_config
    assert (backbone.embed_dim, backbone.depths, backbone.num_heads) == (192, [2, 2, 18, 2], [6, 12, 24, 48])
    assert (backbone.window_size, backbone.drop_path_rate) == (12, 0.3)
    assert (config.num_queries, config.encoder_layers, config.decoder_layers - 1) == (50, 6, 9)
    assert (config.hidden_dim, config.encoder_feedforward_dim, config.dim_feedforward) == (256, 1024, 2048)
    weights = (config.class_weight, config.mask_weight, config.dice_weight, config.no_object_weight)
    assert weights == (2.0, 5.0, 5.0, 0.1)
    assert (config.train_num_points, config.oversample_ratio, config.importance_sample_ratio) == (12544, 3.0, 0.75)
    assert len(network.model.transformer_module.decoder.layers) == 9 and network.class_predictor.out_features == 22
    assert sum(p.numel() for p in network.parameters()) > 2e8


def test_training_lowers_the_loss_and_inference_is_its_own_processor(cfg):
    torch.manual_seed(0)
    model = Mask2Former(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        (loss,) = model([record(0), record(1)]).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # Several processes wait for the gradient of everything that learns.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    given = {**record(1), "height": 80, "width": 120}
    with torch.no_grad():
        (found,) = model([given])
        images = model.preprocess_image([given])
        output = model.network(pixel_values=images)
    assert found["sem_seg"].shape == (4, 80, 120) and images.shape == (1, 3, 64, 64)
    processor = transformers.Mask2FormerImageProcessor()
    (expected,) = processor.post_process_semantic_segmentation(output)
    # The library's goes by way of 384 pixels and does not know of padding: alike, not equal.
    ours = torch.nn.functional.interpolate(found["sem_seg"][None], (40, 60))[0].argmax(0)
    theirs = torch.nn.functional.interpolate(expected[None, None].float(), (64, 64))[0, 0, :40, :60]
    assert (ours == theirs).float().mean() > 0.9


def test_targets_are_a_mask_for_each_label_that_is_known(cfg):
    model = Mask2Former(cfg)
    masks, classes = model.label([record(1)], torch.Size((64, 64)))
    assert classes[0].tolist() == [1, 3] and masks[0].shape == (2, 64, 64)
    assert masks[0][0].sum() == 600 and masks[0][1].sum() == 40 * 60 - 600 - 100
    with pytest.raises(ValueError, match="0.jpg: label 9, expected 0..3"):
        model.label([{**record(0), "sem_seg": torch.full((40, 60), 9)}], torch.Size((64, 64)))


def test_backbones_of_the_hub_load_and_others_are_refused(tmp_path):
    network = build_mask2former("tiny", "", 3, 5)
    swin = transformers.SwinModel(network.config.backbone_config)
    swin.save_pretrained(tmp_path / "swin")
    loaded = build_mask2former("tiny", str(tmp_path / "swin"), 3, 5)
    ours = loaded.model.pixel_level_module.encoder.state_dict()
    theirs = swin.state_dict()
    shared = [key for key in ours if key.replace("swin.", "") in theirs]
    assert len(shared) > 20 and all(torch.equal(ours[k], theirs[k.replace("swin.", "")]) for k in shared)
    with pytest.raises(ValueError, match=r"BACKBONE_WEIGHTS .*nothing: no tiny"):
        build_mask2former("tiny", str(tmp_path / "nothing"), 3, 5)


def test_the_optimizer_is_as_published(cfg):
    """The backbone learns at a tenth; norms, queries, levels and relative positions do not decay."""
    model = Mask2Former(cfg)
    optimizer = build_optimizer(cfg, model)
    values = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    of = {name: values[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(of) == len(values)
    kinds = (torch.nn.LayerNorm, torch.nn.GroupNorm)
    modules = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
    norms = {f"{n}.{p}" for n, m in modules for p, _ in m.named_parameters()} & of.keys()
    assert norms and not any(of[name][1] for name in norms)
    for name, (lr, decay) in of.items():
        in_backbone = ".pixel_level_module.encoder." in name
        assert lr == pytest.approx(1e-5 if in_backbone else 1e-4), name
        free = "queries_" in name or "level_embed" in name or "relative_position_bias" in name
        assert decay == (0 if free or name in norms else 0.05), name


def test_rules_split_groups_and_nothing_is_lost():
    a, b, c = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = [{"params": [a, b], "lr": 2.0}, {"params": [c], "weight_decay": 0.5}]
    found = apply_rules(groups, {b: {"lr": 0.1}, c: {"weight_decay": 0.0}}, {"lr": 1.0, "weight_decay": 0.3})
    assert [[id(p) for p in g["params"]] for g in found] == [[id(a)], [id(b)], [id(c)]]
    assert [g.get("lr") for g in found] == [2.0, 0.2, None] and found[2]["weight_decay"] == 0.0


# ------------------------------------------------------------------ data


@pytest.fixture
def voc(tmp_path):
    """Two pictures in VOC's layout: an aeroplane and a person, with a rim that nobody knows."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for k, value in enumerate((1, 15)):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:30, 10:40], labels[30:32, 10:40] = value, 255
        Image.fromarray(labels).save(folder / "SegmentationClassAug" / f"2007_{k}.png")
        Image.fromarray(np.stack([labels * 10] * 3, -1)).save(folder / "JPEGImages" / f"2007_{k}.jpg")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_0\n2007_1\n")
    return tmp_path


def test_voc_is_read_in_its_layout(voc, monkeypatch):
    records = load_voc2012(str(voc), "val")
    assert [r["image_id"] for r in records] == ["2007_0", "2007_1"]
    assert len(CLASSES) == 20 and "voc2012_val" in DatasetCatalog.list()
    metadata = MetadataCatalog.get("voc2012_val")
    assert metadata.background_label == 20 and metadata.label_map[15] == CLASSES.index("person")
    with pytest.raises(ValueError, match="train_aug.txt: the list of the split does not exist"):
        load_voc2012(str(voc), "train_aug")
    (voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_1.jpg").unlink()
    with pytest.raises(ValueError, match="2007_1.jpg: does not exist, but .*val.txt lists it"):
        load_voc2012(str(voc), "val")


def test_labels_move_with_their_picture_and_background_is_one(voc, cfg):
    (record, _) = load_voc2012(str(voc), "val")
    DatasetCatalog.register("voc_fixture", lambda: [record])
    MetadataCatalog.get("voc_fixture").set(**MetadataCatalog.get("voc2012_val").as_dict() | {"name": "voc_fixture"})
    np.random.seed(0)
    mapper = LabelMapMapper(cfg, True, "voc_fixture")
    shapes = set()
    for _ in range(6):
        given = mapper(dict(record))
        labels = given["sem_seg"]
        assert labels.shape == given["image"].shape[1:] and set(labels.unique().tolist()) <= {0, 20, 255}
        shapes.add(tuple(labels.shape))
    assert len(shapes) > 1 and max(max(shape) for shape in shapes) <= 512
    tested = LabelMapMapper(cfg, False, "voc_fixture")(dict(record))
    assert min(tested["image"].shape[1:]) == 512 and "sem_seg" not in tested
    DatasetCatalog.remove("voc_fixture")
    MetadataCatalog.remove("voc_fixture")


def test_crops_of_one_label_are_drawn_again():
    labels = np.full((100, 100), 20)
    labels[:, 90:] = 0
    np.random.seed(1)
    varied = []
    for largest in (1.1, 0.75):
        crop = VariedCrop("absolute", (30, 30), largest, 255)
        crops = [crop.get_transform(labels, to_bytes(labels)).apply_segmentation(labels) for _ in range(40)]
        varied.append(np.mean([np.bincount(c.ravel()).max() < 0.75 * c.size for c in crops]))
    assert varied[1] > varied[0] + 0.2


def test_colours_vary_and_labels_do_not():
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    same = _Distortion(0.0, 1.0, 1.0, 0, True).apply_image(image)
    # By way of hue and saturation, which rounds.
    assert np.abs(same.astype(int) - image).max() <= 4
    brighter = _Distortion(20.0, 1.0, 1.0, 0, True).apply_image(image).astype(int)
    assert (brighter.mean() - image.mean()) == pytest.approx(20, abs=3)
    grey = _Distortion(0.0, 1.0, 0.5, 0, False).apply_image(image).astype(int)
    assert (grey.max(2) - grey.min(2)).mean() < 0.6 * (image.max(2).astype(int) - image.min(2)).mean()
    np.random.seed(0)
    drawn = [T.AugmentationList([PhotometricDistortion()])(T.AugInput(image)) for _ in range(20)]
    changed = {one.transforms[0].hue for one in drawn}
    assert 0 in changed and len(changed) > 3
    assert all(np.array_equal(one.apply_segmentation(image[..., 0]), image[..., 0]) for one in drawn)
