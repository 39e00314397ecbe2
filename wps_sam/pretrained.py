"""Trained models as folders that work anywhere, here or on the hub of Hugging Face.

Such a folder holds model.safetensors, config.yaml, a README.md for people, evaluation.json where the run had one, and
copies of the other weights that the configuration names by a path, such as a SAM's. The folder of a run is read, too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from detectron2.config import CfgNode, get_cfg
from torch import Tensor

from . import __version__
from .checkpointer import to_safetensors
from .config import PATHS, add_wps_sam_config, method
from .data.sources.fields import read_yaml
from .evaluation.protocols import is_overall
from .outputs import check_outputs, stream_output, write_output
from .paths import leads_out
from .prompters import PROMPTER_REGISTRY

WEIGHTS, CONFIG, CARD, EVALUATION = "model.safetensors", "config.yaml", "README.md", "evaluation.json"
# By what the evaluation was made; runs of earlier versions have none.
PROVENANCE = "provenance.json"
# Sections that are written whole: a default that a later version changes must not change the model. Of the others the
# differences are, so that a key that a later version drops is in few files.
_WHOLE = ("SAM", "SEMANTIC", "PROMPTER", "INFERENCE", "TEXT", "CLIPSEG", "CATSEG", "MASK2FORMER", "ZSSEG")
# What a machine or a training had, and a prediction elsewhere has not.
_DROPPED = {
    *("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.SAM.FEATURES", "MODEL.SAM.CACHE_DIR", "MODEL.SAM.COMPILE"),
    *("MODEL.MASK2FORMER.BACKBONE_WEIGHTS", "MODEL.ZSSEG.BACKBONE_WEIGHTS", "MODEL.ZSSEG.PROMPTS"),
}
# Section of MODEL and name of the keys of weights that are copied.
_COPIED = [tuple(key.split(".")[1:]) for key in PATHS if key.startswith("MODEL.") and key not in _DROPPED]


class Pretrained(NamedTuple):
    """What a predictor is built of: a configuration, weights, and overrides of the configuration."""

    config: Path
    weights: Path
    opts: list[Any]


def find_pretrained(name: str | Path, download: bool = False, revision: str | None = None) -> Pretrained:
    """The files of a trained model.

    Args:
        name: a folder that :func:`write_pretrained` wrote, the OUTPUT_DIR of a training, of which the last checkpoint
            counts, or the name of a repository of the hub, OWNER/NAME.
        download: also ask the hub; otherwise only its cache on this machine.
        revision: branch, tag or commit of the repository.

    Raises:
        ValueError: it is nowhere, or lacks a file; says which.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(str(name), download, revision)
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not config.is_file():
        raise ValueError(f"{folder}: holds no {CONFIG}; expected the folder of a trained model, or OUTPUT_DIR of a run")
    mark = folder / "last_checkpoint"
    if not weights.is_file() and mark.is_file():
        # Of the folder alone, whatever it says.
        weights = folder / Path(mark.read_text(encoding="utf-8").strip()).name
    if not weights.is_file():
        raise ValueError(f"{folder}: holds no {WEIGHTS}, and no checkpoint of a finished run")
    return Pretrained(config, weights, _paths_in(folder, _plain(config)))


def _from_hub(name: str, download: bool, revision: str | None) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ValueError(f"{name}: no such folder")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError("models of the hub need huggingface_hub: pip install huggingface_hub") from error
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=not download))
    except LocalEntryNotFoundError as error:
        missing = "and can't be had from the hub" if download else "and not in the cache of the hub here"
        hint = "is there a network?" if download else "download=True (--download) asks the hub"
        raise ValueError(f"{name}: no such folder, {missing}; {hint}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(f"{name}: no such folder, and the hub answers: {error}") from error


def _plain(config: Path) -> Mapping[str, Any]:
    """A configuration, which may be anybody's: nothing in it is run, and it stands for itself."""
    content = read_yaml(config, "config")
    if not isinstance(content, Mapping) or "_BASE_" in content:
        raise ValueError(f"{config}: expected keys and values without _BASE_")
    return content


def _paths_in(folder: Path, config: Mapping[str, Any]) -> list[Any]:
    """Overrides for the keys that name files of the folder."""
    opts: list[Any] = []
    for section, name in _COPIED:
        value = _value(config, "MODEL", section, name)
        # A folder of anybody's names no file outside of it.
        if isinstance(value, str) and value and not leads_out(value) and os.path.exists(folder / value):
            opts += [f"MODEL.{section}.{name}", str((folder / value).resolve())]
    return opts


def _value(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def write_pretrained(
    folder: str | Path,
    cfg: CfgNode,
    state: Mapping[str, Tensor],
    training: Mapping[str, Any],
    trained_weights: Path,
    licence: str | None = None,
) -> None:
    """Writes a folder that :func:`find_pretrained` reads.

    Args:
        folder: is made.
        cfg: of the model.
        state: its weights, which are written as they are.
        training: ``class_names``, a list, ``exif`` and ``made_by``, as in checkpoints.
        trained_weights: the file that the model came from; the evaluation beside it is taken over.
        licence: an identifier of the hub, such as apache-2.0.

    Raises:
        ValueError: a file of somebody else's is in the way.
    """
    folder = Path(folder)
    evaluation = _evaluation_beside(trained_weights)
    check_outputs([folder / name for name in (WEIGHTS, CONFIG, CARD, EVALUATION, PROVENANCE)])
    config = _config_of(cfg, len(training["class_names"]))
    for section, name in _COPIED:
        node = config["MODEL"].get(section, {})
        if node.get(name):
            node[name] = _copy(node[name], folder, section.lower())
    if evaluation is not None:
        write_output(folder / EVALUATION, json.dumps(evaluation, indent=1).encode())
        if (trained_weights.parent / PROVENANCE).is_file():
            write_output(folder / PROVENANCE, (trained_weights.parent / PROVENANCE).read_bytes())
    about = f"# Of wps_sam {__version__}. PartPredictor.from_pretrained reads it.\n"
    write_output(folder / CONFIG, (about + yaml.safe_dump(config)).encode())
    write_output(folder / CARD, _card(folder.name, cfg, training["class_names"], evaluation, licence).encode())
    write_output(folder / WEIGHTS, to_safetensors(state, training))


def _evaluation_beside(weights: Path) -> dict[str, dict[str, dict[str, float | None]]] | None:
    """The evaluation.json in the folder of weights, if it is theirs: in a run that of the last checkpoint."""
    path, mark = weights.parent / EVALUATION, weights.parent / "last_checkpoint"
    if not path.is_file() or (mark.is_file() and mark.read_text(encoding="utf-8").strip() != weights.name):
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _config_of(cfg: CfgNode, num_classes: int) -> dict[str, Any]:
    default = get_cfg()
    add_wps_sam_config(default)
    whole = [*_WHOLE, *(p.CONFIG_NODE for name, p in PROMPTER_REGISTRY if name == cfg.MODEL.PROMPTER.NAME)]
    model = _differences(cfg.MODEL, default.MODEL, "MODEL.", [f"MODEL.{name}" for name in whole])
    model["PROMPTER"]["NUM_CLASSES"] = num_classes
    rest = {name: _differences(cfg[name], default[name], f"{name}.") for name in ("INPUT", "WEAK_LABELS")}
    # Of the data set the name alone: to say what the model was trained on.
    sections = {"MODEL": {**model, "DEVICE": "auto"}, **rest, "DATASETS": {"TRAIN": list(cfg.DATASETS.TRAIN)}}
    return {"VERSION": cfg.VERSION, **{name: section for name, section in sections.items() if section}}


def _differences(node: CfgNode, default: CfgNode, prefix: str, whole: Collection[str] = ()) -> dict[str, Any]:
    """The keys below ``node`` that differ from their defaults, and all of those below the keys in ``whole``."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        key = prefix + name
        if key in _DROPPED:
            continue
        if isinstance(value, CfgNode):
            below = [f"{key}.{inner}" for inner in value] if key in whole else whole
            if inside := _differences(value, default[name], f"{key}.", below):
                found[name] = inside
        elif key in whole or value != default[name]:
            found[name] = value
    return found


def _copy(path: str, folder: Path, place: str) -> str:
    """Copies a file, or those of a folder, to ``folder/place``; returns how the configuration calls it then.

    What is no path, such as "shipped" or a name of the hub, stays as it is.
    """
    source = Path(path)
    if not source.exists():
        return path
    inside = source.iterdir() if source.is_dir() else [source]
    for file in (p for p in inside if p.is_file() and not p.name.startswith(".")):
        target = folder / place / file.name
        if not (target.exists() and target.samefile(file)):
            with stream_output(target) as unfinished:
                shutil.copyfile(file, unfinished)
    return place if source.is_dir() else f"{place}/{source.name}"


# ------------------------------------------------------------------ the card


def _card(
    title: str,
    cfg: CfgNode,
    class_names: Sequence[str],
    evaluation: Mapping[str, Mapping[str, Mapping[str, float | None]]] | None,
    licence: str | None,
) -> str:
    head = {
        "library_name": "wps_sam",
        "pipeline_tag": "image-segmentation",
        "tags": ["part-segmentation", "segment-anything", "weakly-supervised"],
        **({"license": licence} if licence else {}),
    }
    sets = ", ".join(cfg.DATASETS.TRAIN) or "not stated"
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {title}\n",
        f"Finds, names and cuts out {len(class_names)} kinds of parts in pictures: {', '.join(class_names)}.\n",
        "```python\nfrom wps_sam import PartPredictor\n",
        'predictor = PartPredictor.from_pretrained("FOLDER OR OWNER/NAME", download=True)',
        'parts = predictor("photo.jpg")\nprint(parts.names, parts.scores)\nparts.save("parts.png")\n```\n',
        "| | |\n|---|---|",
        f"| method | {method(cfg)} |",
        f"| trained on | {sets} |",
        f"| labels of the training | {cfg.WEAK_LABELS.TYPE} |",
        f"| frozen below it | {_frozen(cfg)} |",
        f"| licence | {licence or 'not stated; the weights of others in this folder keep their own'} |",
        f"| written by | wps_sam {__version__} |\n",
    ]
    for name, scores in (evaluation or {}).items():
        lines += [f"## Evaluation on {name}\n", "In percent.\n", "| protocol | metric | |\n|---|---|---|"]
        for protocol, values in scores.items():
            lines += [f"| {protocol} | {m} | {_number(v)} |" for m, v in values.items() if is_overall(protocol, m)]
        # Where there are boxes alone, there is no IoU.
        for protocol, metric in (("d2_semseg", "IoU"), ("coco_ap", "box_AP")):
            found = scores.get(protocol, {}).items()
            if of_parts := {m.removeprefix(f"{metric}-"): v for m, v in found if m.startswith(f"{metric}-")}:
                lines.append(f"\n| part | {metric} ({protocol}) |\n|---|---|")
                lines += [f"| {part} | {_number(value)} |" for part, value in of_parts.items()]
                break
        lines.append("")
    return "\n".join(lines)


def _frozen(cfg: CfgNode) -> str:
    """The networks that the training did not change, and what those that ship have seen."""
    if cfg.MODEL.META_ARCHITECTURE != "WPSSAM":
        return "see the method"
    sam, semantic = cfg.MODEL.SAM, cfg.MODEL.SEMANTIC
    told = [f"SAM {sam.ARCH}, {sam.WEIGHTS or 'random weights'}"]
    told += [f"semantic network {semantic.NAME}, {semantic.WEIGHTS or 'random weights'}"] if semantic.NAME else []
    if "shipped" in (sam.WEIGHTS, semantic.WEIGHTS):
        told.append("shipped: with wps_sam, whose SAM has seen the masks of generated pictures and of ccp_parts_train")
    return "; ".join(told)


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.2f}"
