"""Lists of what is in pictures: a JSON {file name: [class names]}."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wps_sam.data.sources.fields import mapping_of, read_json
from wps_sam.paths import leads_out


def read_tags(file: str, folder: str, classes: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(file name, class ids) of a JSON {file name: [class names]}, by name.

    Raises:
        ValueError: names the file, and the picture that is missing or the class that is unknown.
    """
    ids = {name: c for c, name in enumerate(classes)}
    content = mapping_of(read_json(file, "tags"), file, _are_texts, "a list of class names")
    found = []
    for name, tags in sorted(content.items()):
        unknown = [tag for tag in tags if tag not in ids]
        if unknown:
            raise ValueError(f"{file}: {name}: {unknown} are not among the classes {sorted(ids)}")
        if leads_out(name):
            raise ValueError(f"{file}: {name!r}: expected the name of a picture in {folder}")
        if not os.path.isfile(os.path.join(folder, name)):
            raise ValueError(f"{file}: {Path(folder) / name}: the picture does not exist")
        found.append((name, [ids[tag] for tag in tags]))
    return found


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
