"""Configuration: every key of ours is documented, read somewhere, and listed here; every shipped file loads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wps_sam.config import add_wps_sam_config, read_config
from wps_sam.data.sources.descriptions import read_description

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

ROOT = Path(__file__).resolve().parents[1]
CONFIG_SOURCE = ROOT / "wps_sam" / "config.py"
# Every prompter declares the keys of its own node, as ``node.KEY``.
PROMPTER_SOURCES = {
    "MODEL.DETR_PROMPTER": ROOT / "wps_sam" / "prompters" / "detr.py",
    "MODEL.DENSE_PROMPTER": ROOT / "wps_sam" / "prompters" / "dense.py",
    "MODEL.FCOS_PROMPTER": ROOT / "wps_sam" / "prompters" / "fcos.py",
    "MODEL.PIXEL_CLASSIFIER": ROOT / "wps_sam" / "prompters" / "pixel_classifier.py",
}
# Those have settings of their own: tests/tools/test_pretrain_sam.py, tests/test_distillation.py, tests/image_level.
OTHERS = ("pretrain_sam", "distill_semantic", "image_level")
CONFIG_FILES = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name not in OTHERS)

# The public configuration. A change here is a change users see: it belongs into CHANGELOG.md.
OUR_KEYS = {
    "DATASETS.DESCRIPTIONS",
    "INPUT.DATASET_MAPPER_NAME",
    "INPUT.OBJECT_MAPS_AT_TEST",
    "INPUT.PAD_TO",
    "INPUT.RANDOM_VIEWS",
    "MODEL.CATSEG.ARCH",
    "MODEL.CATSEG.BACKBONE_MULTIPLIER",
    "MODEL.CATSEG.BACKGROUND_WEIGHT",
    "MODEL.CATSEG.CLIP",
    "MODEL.CATSEG.COMPAT",
    "MODEL.CATSEG.TRAIN",
    "MODEL.CATSEG.WEIGHTS",
    "MODEL.CLIPSEG.ARCH",
    "MODEL.CLIPSEG.BACKGROUND_WEIGHT",
    "MODEL.CLIPSEG.TRAIN",
    "MODEL.CLIPSEG.WEIGHTS",
    "MODEL.MASK2FORMER.ARCH",
    "MODEL.MASK2FORMER.BACKBONE_MULTIPLIER",
    "MODEL.MASK2FORMER.BACKBONE_WEIGHTS",
    "MODEL.MASK2FORMER.NUM_QUERIES",
    "INPUT.COLOR_AUG_SSD",
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
    "MODEL.DENSE_PROMPTER.CLASS_BALANCE",
    "MODEL.DENSE_PROMPTER.CLASS_WEIGHT",
    "MODEL.DENSE_PROMPTER.COMPANION_DIM",
    "MODEL.DENSE_PROMPTER.CONV_DIM",
    "MODEL.DENSE_PROMPTER.MASK_WEIGHT",
    "MODEL.DENSE_PROMPTER.NUM_CONVS",
    "MODEL.DENSE_PROMPTER.PART_BALANCE",
    "MODEL.DENSE_PROMPTER.PART_WEIGHT",
    "MODEL.DENSE_PROMPTER.PRESENCE_WEIGHT",
    "MODEL.DENSE_PROMPTER.PROMPT_WEIGHT",
    "MODEL.DENSE_PROMPTER.STRIDE",
    "MODEL.DETR_PROMPTER.CLASS_WEIGHT",
    "MODEL.DETR_PROMPTER.FFN_DIM",
    "MODEL.DETR_PROMPTER.MASK_WEIGHT",
    "MODEL.DETR_PROMPTER.MATCHER_CLASS_WEIGHT",
    "MODEL.DETR_PROMPTER.MATCHER_PROMPT_WEIGHT",
    "MODEL.DETR_PROMPTER.NECK_STRIDES",
    "MODEL.DETR_PROMPTER.NUM_DECODER_LAYERS",
    "MODEL.DETR_PROMPTER.NUM_ENCODER_LAYERS",
    "MODEL.DETR_PROMPTER.NUM_HEADS",
    "MODEL.DETR_PROMPTER.NUM_QUERIES",
    "MODEL.DETR_PROMPTER.PRESENCE_WEIGHT",
    "MODEL.DETR_PROMPTER.PROMPT_WEIGHT",
    "MODEL.FCOS_PROMPTER.DIM",
    "MODEL.FCOS_PROMPTER.NUM_CONVS",
    "MODEL.INFERENCE.MAX_PARTS",
    "MODEL.INFERENCE.MERGE",
    "MODEL.INFERENCE.NAMING",
    "MODEL.INFERENCE.NMS_THRESHOLD",
    "MODEL.INFERENCE.SCORE_THRESHOLD",
    "MODEL.INFERENCE.UNSEEN_BIAS",
    "MODEL.PIXEL_CLASSIFIER.ARCH",
    "MODEL.PIXEL_CLASSIFIER.BALANCE",
    "MODEL.PIXEL_CLASSIFIER.ENCODER",
    "MODEL.PIXEL_CLASSIFIER.IMAGE_SIZE",
    "MODEL.PROMPTER.CLASSIFIER",
    "MODEL.PROMPTER.NAME",
    "MODEL.PROMPTER.NUM_CLASSES",
    "MODEL.SAM.ARCH",
    "MODEL.SAM.CACHE_DIR",
    "MODEL.SAM.COMPILE",
    "MODEL.SAM.FEATURES",
    "MODEL.SAM.LEVELS",
    "MODEL.SAM.PADDING",
    "MODEL.SAM.PRECISION",
    "MODEL.SAM.WEIGHTS",
    "MODEL.SEMANTIC.IMAGE_SIZE",
    "MODEL.SEMANTIC.NAME",
    "MODEL.SEMANTIC.WEIGHTS",
    "MODEL.TEXT.EMBEDDINGS",
    "MODEL.TEXT.ENCODER",
    "MODEL.TEXT.TEMPLATES",
    "MODEL.ZSSEG.ARCH",
    "MODEL.ZSSEG.BACKBONE_MULTIPLIER",
    "MODEL.ZSSEG.BACKBONE_WEIGHTS",
    "MODEL.ZSSEG.CLIP",
    "MODEL.ZSSEG.COMPAT",
    "MODEL.ZSSEG.ENSEMBLE_WEIGHT",
    "MODEL.ZSSEG.NUM_QUERIES",
    "MODEL.ZSSEG.PROMPTS",
    "MODEL.ZSSEG.PROMPT_CLASSES",
    "MODEL.ZSSEG.PROMPT_KIND",
    "MODEL.ZSSEG.PROMPT_LENGTHS",
    "MODEL.ZSSEG.REGION_SCALE",
    "MODEL.ZSSEG.STAGE",
    "SOLVER.EARLY_STOPPING",
    "SOLVER.MAX_EPOCHS",
    "SOLVER.OPTIMIZER",
    "SOLVER.POLY_LR_POWER",
    "SOLVER.WEIGHT_DECAY_EMBED",
    "TEST.OBJECT_PREDICTIONS",
    "TEST.ORACLES",
    "TEST.PICTURES",
    "TEST.OV_COMPAT",
    "TEST.PROTOCOLS",
    "TEST.WPS_AUTHORS_NULL",
    "WEAK_LABELS.POINT",
    "WEAK_LABELS.SEED",
    "WEAK_LABELS.TYPE",
}


def leaves(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def our_cfg() -> CfgNode:
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    return cfg


def assigned_keys() -> dict[str, tuple[Path, int]]:
    """Every key that add_wps_sam_config and the prompters' add_config assign, sections included: file and line."""
    keys = {}
    for node, path in {"cfg": CONFIG_SOURCE, **PROMPTER_SOURCES}.items():
        name = "cfg" if node == "cfg" else "node"
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            target = ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
            if target.startswith(f"{name}."):
                key = target.removeprefix(f"{name}.")
                keys[key if node == "cfg" else f"{node}.{key}"] = (path, statement.lineno)
    return keys


def attribute_chains(path: Path) -> set[str]:
    """Dotted attribute reads in a file, with local names for a part of the configuration written out.

    After ``node = cfg.MODEL.PROMPTER`` the expression ``node.NUM_HEADS`` counts as MODEL.DETR_PROMPTER.NUM_HEADS.
    """
    chains: set[str] = set()
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        short_names: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
                target = node.targets[0]
                if isinstance(target, ast.Name):
                    short_names[target.id] = ast.unparse(node.value)
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                root, _, rest = ast.unparse(node).partition(".")
                chains.add(f"{short_names.get(root, root)}.{rest}")
    return chains


def test_key_list_is_the_known_one() -> None:
    assert set(leaves(our_cfg())) - set(leaves(get_cfg())) == OUR_KEYS


def test_every_key_is_read() -> None:
    chains: set[str] = set()
    for path in [*(ROOT / "wps_sam").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        if path != CONFIG_SOURCE and "standin" not in path.parts:
            chains |= attribute_chains(path)
    unread = {key for key in OUR_KEYS if not any(chain.endswith(f"cfg.{key}") for chain in chains)}
    assert not unread, "keys that nothing reads"


def test_every_key_is_documented() -> None:
    """Keys of one block share the comment above it; a blank line ends the block."""
    assert OUR_KEYS <= assigned_keys().keys()
    for key, (path, number) in assigned_keys().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        if not any(ours == key or ours.startswith(f"{key}.") for ours in OUR_KEYS):
            continue  # a default of Detectron2's that differs here: documented there
        above = number - 2
        while lines[above].strip() and not lines[above].lstrip().startswith("#"):
            above -= 1
        assert lines[above].lstrip().startswith("#"), f"{key} has no comment above it"


def load_config(path: Path, **options: Any) -> CfgNode:
    cfg = our_cfg()
    cfg.merge_from_file(str(path))
    for key, value in options.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.relative_to(ROOT / "configs").as_posix())
def test_config_file_builds_its_model(path: Path) -> None:
    """On the meta device: sizes are checked at no cost, whatever the SAM. Weights are another test's matter."""
    files = {"MODEL__SAM__WEIGHTS": "", "MODEL__CLIPSEG__WEIGHTS": "", "MODEL__TEXT__EMBEDDINGS": ""}
    files |= {f"MODEL__{key}": "" for key in ("MASK2FORMER__BACKBONE_WEIGHTS", "CATSEG__WEIGHTS", "CATSEG__CLIP")}
    files |= {f"MODEL__ZSSEG__{key}": "" for key in ("CLIP", "BACKBONE_WEIGHTS", "PROMPTS")}
    if load_config(path).MODEL.SEMANTIC.WEIGHTS != "shipped":
        files["MODEL__SEMANTIC__WEIGHTS"] = ""
    cfg = load_config(path, MODEL__DEVICE="meta", **files)
    # 0 is filled in from a data set.
    cfg.MODEL.PROMPTER.NUM_CLASSES = cfg.MODEL.PROMPTER.NUM_CLASSES or 3
    with torch.device("meta"):
        model = build_model(cfg)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    if cfg.MODEL.META_ARCHITECTURE == "CLIPSeg":
        assert trained == ({"adapter", "clipseg"} if cfg.MODEL.CLIPSEG.TRAIN else set())
    elif cfg.MODEL.META_ARCHITECTURE == "CATSeg":
        assert trained == set(cfg.MODEL.CATSEG.TRAIN)
    elif cfg.MODEL.META_ARCHITECTURE == "ZSSeg":
        stages = {"prompts": {"prompts", "fuse_weight"}, "proposals": {"proposals", "no_object"}}
        assert trained == stages[cfg.MODEL.ZSSEG.STAGE]
    else:
        assert trained == {"network" if cfg.MODEL.META_ARCHITECTURE == "Mask2Former" else "prompter"}


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.relative_to(ROOT / "configs").as_posix())
def test_config_file_names_registered_data_sets(path: Path) -> None:
    """Those of a description are registered when its folder is there; the others must exist by now."""
    cfg = load_config(path)
    if not cfg.DATASETS.DESCRIPTIONS:
        assert set(cfg.DATASETS.TRAIN) | set(cfg.DATASETS.TEST) <= set(DatasetCatalog.list())


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.relative_to(ROOT / "configs").as_posix())
def test_config_file_opens_with_what_to_expect(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#"), "begin with a comment: what it trains, the command, hours and score to expect"
    assert isinstance(yaml.safe_load(text), dict)
    base = re.search(r"^_BASE_: *\"?([^\"\n]+)", text, re.MULTILINE)
    if base is not None:
        assert (path.parent / base.group(1)).is_file()


def test_unknown_key_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("MODEL:\n  PROMPTER:\n    NUM_QUERRIES: 3\n")
    with pytest.raises(KeyError, match="NUM_QUERRIES"):
        load_config(path)


@pytest.mark.parametrize(("there", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_the_device_is_chosen(there: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    path = ROOT / "configs" / "own_data.yaml"
    assert read_config(path).MODEL.DEVICE == chosen
    assert read_config(path, ["MODEL.DEVICE", "cuda:1"]).MODEL.DEVICE == "cuda:1"


@pytest.mark.parametrize(
    ("text", "opts", "message"),
    [
        (
            "MODEL:\n  PROMPTER:\n    CLASIFIER: text\n",
            [],
            r"typo\.yaml: no key MODEL\.PROMPTER\.CLASIFIER \(did you mean .*R",
        ),
        ("", [], r"typo\.yaml: expected keys and values"),
        ("- a\n", [], r"typo\.yaml: expected keys and values"),
        ("MODEL: [\n", [], r"typo\.yaml: "),
        ("_BASE_: nowhere.yaml\n", [], r"typo\.yaml: .*nowhere\.yaml"),
        ("SOLVER:\n  MAX_ITER: many\n", [], r"typo\.yaml: SOLVER\.MAX_ITER: expected int, as in 38370, got str many"),
        (
            "SEED: 1\n",
            ["SOLVER.MAX_ITERS", "3"],
            r"overrides: no key SOLVER\.MAX_ITERS \(did you mean SOLVER\.MAX_ITER\?\)",
        ),
        (
            "SEED: 1\n",
            ["DATASETS.NUM_CLASSES", "3"],
            r"no key DATASETS\.NUM_CLASSES \(did you mean .*PROMPTER\.NUM_CLASSES",
        ),
        ("SEED: 1\n", ["SEED"], "expected KEY VALUE pairs, but 'SEED' stands alone at the end"),
        (
            "SEED: 1\n",
            ["SOLVER.MAX_ITER", "many"],
            r"overrides: SOLVER\.MAX_ITER: expected int, as in 38370, got str many",
        ),
        ("SEED: 1\n", ["MODEL.LOSS", "1"], r"overrides: .*MODEL\.LOSS was renamed to CLASS_WEIGHT"),
    ],
)
def test_mistakes_in_configurations_are_told(tmp_path: Path, text: str, opts: list[str], message: str) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(path, opts)


def test_a_configuration_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own file, its _BASE_, the file of embeddings and, where it is read, the description of its data set."""
    monkeypatch.chdir(tmp_path)
    cfg = read_config("configs/ccp_parts/wps_sam_tiny_zero_shot.yaml")
    assert cfg.MODEL.TEXT.EMBEDDINGS == str(ROOT / "datasets" / "embeddings" / "ccp_parts.safetensors")
    assert cfg.MODEL.SAM.WEIGHTS == "shipped" and cfg.MODEL.WEIGHTS == ""
    with pytest.raises(ValueError, match=r"ccp_parts_zero_shot\.yaml: root: the folder does not exist"):
        monkeypatch.delenv("WPS_SAM_CCP_PARTS", raising=False)
        monkeypatch.setattr("wps_sam.data.sources.descriptions._find_root", _no_root)
        read_description(cfg.DATASETS.DESCRIPTIONS[0])


def _no_root(root: str, folder: Path, where: str) -> Path:
    assert folder == ROOT / "datasets"
    raise ValueError(f"{where}: root: the folder does not exist")


def test_the_configuration_of_a_finished_run_asks_for_what_it_has_learned(tmp_path: Path) -> None:
    """Not for the weights that it began with, unless these are asked for, or its recipe is used for another run."""
    file = tmp_path / "config.yaml"
    file.write_text(f"MODEL:\n  WEIGHTS: begun.pth\nOUTPUT_DIR: {tmp_path}\n")
    assert read_config(file).MODEL.WEIGHTS == "begun.pth"
    for name in ("log.txt", "model_final.pth"):
        (tmp_path / name).touch()
    assert read_config(file).MODEL.WEIGHTS == ""
    assert read_config(file, ["MODEL.WEIGHTS", "other.pth"]).MODEL.WEIGHTS == "other.pth"
    assert read_config(file, ["OUTPUT_DIR", str(tmp_path / "new")]).MODEL.WEIGHTS == "begun.pth"
