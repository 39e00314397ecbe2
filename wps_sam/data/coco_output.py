"""A data set of ours on disk: a COCO file a split, and the description that DATASETS.DESCRIPTIONS takes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wps_sam.data.sources.descriptions import require_dataset_name
from wps_sam.outputs import check_outputs, write_output

import yaml

DESCRIPTION = "description.yaml"


def write_coco_dataset(
    folder: Path,
    name: str,
    root: str | Path,
    splits: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str],
    inputs: Iterable[str | Path] = (),
    **keys: Any,
) -> Path:
    """Writes ``folder``/{split}.json and description.yaml, and returns the path of the latter.

    Where the pictures lie in ``folder``, or below it, all paths are relative, so that it can be moved with them.

    Args:
        folder: to write to; it is made.
        name: of the data set, without a split.
        root: folder of the pictures, to which the file names in ``splits`` are relative.
        splits: a COCO file each.
        classes: the names in the order of the class ids.
        inputs: files that must not be overwritten.
        keys: further keys of the description.

    Raises:
        ValueError: the name is none that a description may have; or see :func:`wps_sam.outputs.check_outputs`.
    """
    require_dataset_name(name, "name")
    files = {f"{split}.json": json.dumps(content) for split, content in splits.items()}
    pictures, labels = Path(os.path.abspath(root)), Path(os.path.abspath(folder))
    if pictures.is_relative_to(labels):
        at, beside = str(pictures.relative_to(labels)), os.path.relpath(labels, pictures)
    else:
        at, beside = str(pictures), str(labels)
    about = {
        "name": name,
        "layout": "coco",
        "root": at,
        "splits": {s: {"images": ".", "annotations": os.path.join(beside, f"{s}.json")} for s in splits},
        "classes": list(classes),
        **keys,
    }
    files[DESCRIPTION] = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    folder.mkdir(parents=True, exist_ok=True)
    check_outputs([folder / file for file in files], inputs)
    for file, text in files.items():
        write_output(folder / file, text.encode())
    return folder / DESCRIPTION
