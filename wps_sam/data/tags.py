"""Lists of what is in pictures: a JSON {file name: [class names]}."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def read_tags(file: str, folder: str, classes: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(file name, class ids) of a JSON {file name: [class names]}, by name.

    Raises:
        ValueError: names the file, and the picture that is missing or the class that is unknown.
    """
    try:
        items = sorted(json.loads(Path(file).read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: expected JSON {{file name: [class names]}}: {error}") from error
    ids = {name: c for c, name in enumerate(classes)}
    found = []
    for name, tags in items:
        unknown = [tag for tag in tags if tag not in ids] if isinstance(tags, list) else [tags]
        if unknown:
            raise ValueError(f"{file}: {name}: {unknown} are not among the classes {sorted(ids)}")
        if not (Path(folder) / name).is_file():
            raise ValueError(f"{file}: {Path(folder) / name}: the picture does not exist")
        found.append((name, [ids[tag] for tag in tags]))
    return found
