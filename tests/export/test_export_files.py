"""One file, stamped, that says with ONNX Runtime what the model says with PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from wps_sam import PartPredictor, onnx_runtime
from wps_sam.cli import main
from wps_sam.export.compare import compare
from wps_sam.export.files import describe, export_model, write_onnx
from wps_sam.onnx_runtime import OnnxPartPredictor
from wps_sam.prediction import PartPrediction
from wps_sam.prediction import pictures as prediction_pictures

import numpy as np
import onnx
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from export_scenes import DENSE, NAMES
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = Path(os.environ.get("WPS_SAM_CCP_PARTS") or "nowhere") / "images" / "val"

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12), reason="exports were tried with PyTorch 2.12 alone"
)


@pytest.fixture(scope="module")
def predictor(small_predictor: Callable[..., PartPredictor]) -> PartPredictor:
    return small_predictor(*DENSE, "MODEL.SAM.PADDING", "center", exif="stored")


@pytest.fixture(scope="module")
def model(predictor: PartPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_model(predictor, path)
    return path


def assert_same(found: PartPrediction, expected: PartPrediction) -> None:
    assert found.names == expected.names and len(found)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.part_map == expected.part_map).mean() > 0.999
    for mask, wanted in zip(found.masks, expected.masks):
        assert (mask == wanted).mean() > 0.999


@pytest.mark.parametrize("confidence", [None, 0.3])
def test_it_says_what_the_model_says(
    confidence: float | None,
    predictor: PartPredictor,
    model: Path,
    pictures: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictor, "confidence", confidence)
    exported = OnnxPartPredictor(model, confidence=confidence)
    for picture in pictures:
        assert_same(exported(picture), predictor(picture))
    # The agreement tells pictures apart.
    turned = np.ascontiguousarray(pictures[0][::-1])
    assert (exported(turned).part_map == predictor(pictures[0]).part_map).mean() < 0.99


def test_files_are_seen_as_the_training_saw_them(predictor: PartPredictor, model: Path, photo_folder: Path) -> None:
    lying = photo_folder / "lying.png"
    found = OnnxPartPredictor(model)(lying)
    # As stored, not turned upright.
    assert found.image.shape == (149, 111, 3) and found.file_name == str(lying)
    assert_same(found, predictor(lying))


def test_a_large_picture_is_answered_small(
    predictor: PartPredictor, model: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    most = pictures[0].size // 3 // 4
    monkeypatch.setattr("wps_sam.predictor.WORKING_PIXELS", most)
    monkeypatch.setattr(onnx_runtime, "working_size", lambda h, w: prediction_pictures.working_size(h, w, most))
    found = OnnxPartPredictor(model)(pictures[0])
    assert found.coarse_map.shape == (74, 55) and found.part_map.shape == (149, 111)
    assert_same(found, predictor(pictures[0]))


def test_it_is_one_stamped_file(predictor: PartPredictor, model: Path) -> None:
    assert sorted(p.name for p in model.parent.iterdir()) == [".made_by_wps_sam", model.name]
    written = onnx.load(model)
    onnx.checker.check_model(written)
    (stamp,) = (p.value for p in written.metadata_props if p.key == "wps_sam")
    about = json.loads(stamp)
    assert about["class_names"] == list(NAMES) and about["image_size"] == 128 and about["exif"] == "stored"
    assert about["padding"] == "center" and about["proposals"] == 5 and about["nms_threshold"] == 0.6
    assert len({about["weights_sha256"], about["frozen_sha256"], about["config_sha256"]}) == 3
    assert [i.name for i in written.graph.input] == ["image", "size", "confidence"]
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in written.graph.output}
    assert shapes == {
        "mask_logits": [5, 32, 32],
        "scores": [5],
        "classes": [5],
        "boxes": [5, 4],
        "part_map": [128, 128],
        "pixel_logits": [4, 32, 32],
    }


def test_it_needs_no_pytorch(predictor: PartPredictor, model: Path, photo_folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys, json\n"
        "from wps_sam.onnx_runtime import OnnxPartPredictor\n"
        "parts = OnnxPartPredictor(sys.argv[1])(sys.argv[2])\n"
        "heavy = {'torch', 'detectron2', 'segment_anything', 'matplotlib'} & set(sys.modules)\n"
        "print(json.dumps([sorted(heavy), parts.names, parts.part_map.sum().item(), parts.to_dict()['parts'][0]]))\n"
    )
    lying = photo_folder / "lying.png"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", program, str(model), str(lying)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy, names, total, first = json.loads(done.stdout)
    expected = OnnxPartPredictor(model)(lying)
    assert not heavy and names == expected.names and total == expected.part_map.sum()
    assert first == expected.to_dict()["parts"][0]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_files_say_nearly_the_same(
    precision: str, predictor: PartPredictor, model: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    write_onnx(onnx.load(model), path, describe(predictor, 5, precision))
    assert path.stat().st_size < 0.9 * model.stat().st_size
    exported = OnnxPartPredictor(path)
    agreements = [(exported(p).part_map == predictor(p).part_map).mean() for p in pictures]
    # Random weights are unsure of a class, so that one picture or the other may be painted in another.
    assert np.median(agreements) > 0.9 and exported.about["precision"] == precision


def test_a_program_of_torch_export_by_the_command_line(
    predictor: PartPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = tmp_path / "model.pt2", str(Path(predictor.weights).with_name("config.yaml"))
    command = ["export", "--config-file", config, "--weights", predictor.weights, "--output", str(path)]
    command += ["--format", "torch", "--proposals", "2"]
    assert main(command) == 0
    assert f"{path}: 3 classes, 2 parts at most, " in capsys.readouterr().out
    extra = {"wps_sam.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["wps_sam.json"]) == describe(predictor, 2, "fp32")
    picture = torch.randint(256, (1, 3, 128, 128), dtype=torch.uint8)
    masks, scores, *_ = program(picture, torch.tensor([128, 90]), torch.tensor([0.0]))
    assert masks.shape == (2, 32, 32) and 0 < scores[0] <= 1
    assert main([*command, "--compare", "2"]) == 2
    assert capsys.readouterr().err == "error: --compare needs the format onnx, got torch\n"


def test_comparison_counts_what_differs(
    predictor: PartPredictor, model: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    records = []
    for i, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        file, truth = tmp_path / f"{i}.png", tmp_path / f"{i}_map.png"
        Image.fromarray(picture).save(file)
        Image.fromarray(predictor(picture).part_map.astype(np.uint8)).save(truth)
        record = {"file_name": str(file), "sem_seg_file_name": str(truth), "image_id": i, "annotations": []}
        records.append({**record, "height": height, "width": width})
    DatasetCatalog.register("export_comparison", lambda: records)
    about = {"thing_classes": list(NAMES), "ignore_label": 255, "background_label": 3}
    MetadataCatalog.get("export_comparison").set(**about, label_map={i: i for i in range(4)})
    try:
        result = compare(predictor, model, "export_comparison", 3)
        assert result.pictures == 3 and result.agreement > 0.999 and result.agreement >= result.least
        # The truth is what the model says.
        assert result.miou[0] == 1 and 0.99 < result.miou[1] <= 1
        assert "of the pixels agree" in str(result)
    finally:
        DatasetCatalog.remove("export_comparison")
        MetadataCatalog.remove("export_comparison")


# ------------------------------------------------------------------ what cannot be


def test_what_cannot_be_exported(predictor: PartPredictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="proposals: expected 1 or more, got 0"):
        export_model(predictor, tmp_path / "m.onnx", proposals=0)
    with pytest.raises(ValueError, match="precision: int8 is for the format onnx; expected fp32 with torch"):
        export_model(predictor, tmp_path / "m.pt2", format="torch", precision="int8")
    with pytest.raises(ValueError, match="would be overwritten"):
        export_model(predictor, Path(predictor.weights))
    assert not list(tmp_path.iterdir())


def test_what_is_no_exported_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.onnx: the file does not exist"):
        OnnxPartPredictor("nowhere.onnx")
    (tmp_path / "damaged.onnx").write_bytes(model.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged\.onnx: ONNX Runtime cannot read it"):
        OnnxPartPredictor(tmp_path / "damaged.onnx")
    with pytest.raises(ValueError, match="providers: this ONNX Runtime has .*CPUExecutionProvider.*, not Nonsense"):
        OnnxPartPredictor(model, providers=["Nonsense"])
    with pytest.raises(ValueError, match=r"confidence: expected a number from 0 to 1, got 2"):
        OnnxPartPredictor(model, confidence=2)
    with pytest.raises(ValueError, match=r"m\.onnx: no model of wps-sam export"):
        onnx_runtime.read_about("m.onnx", {})
    with pytest.raises(ValueError, match=r"m\.onnx: an export of version 99, expected 1"):
        onnx_runtime.read_about("m.onnx", {"wps_sam": '{"version": 99}'})


# ------------------------------------------------------------------ the model that ships


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="takes minutes, and photos of CCP parts; set WPS_SAM_CCP_PARTS")
def test_the_shipped_model_agrees_on_photos_of_odd_sizes(tmp_path: Path) -> None:
    shipped = PartPredictor()
    export_model(shipped, tmp_path / "model.onnx")
    exported = OnnxPartPredictor(tmp_path / "model.onnx")
    same = total = 0
    for i, file in enumerate(sorted(PHOTOS.glob("*.JPEG"))[:20]):
        with Image.open(file) as photo:
            # Portrait as they are, and landscape, from a third to four thirds of their size.
            scale = (5 + i) / 15
            width, height = (round(side * scale) | 1 for side in photo.size)
            picture = np.asarray(photo.convert("RGB").resize((width, height)))
        picture = np.ascontiguousarray(np.rot90(picture)) if i % 2 else picture
        expected, found = shipped(picture), exported(picture)
        same += int((expected.part_map == found.part_map).sum())
        total += found.part_map.size
        assert found.names == expected.names
    assert same / total > 0.999
