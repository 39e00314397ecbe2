"""Writes a feature cache of format 1 by hand, as the versions before format 2 did, byte by byte."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def payload(embedding: np.ndarray, dtype: str) -> bytes:
    """One embedding float32 [channels, h, w]."""
    if dtype != "int8":
        return embedding.astype({"fp16": "<f2", "fp32": "<f4"}[dtype]).tobytes()
    low, high = embedding.min(axis=(1, 2)), embedding.max(axis=(1, 2))
    offset, scale = (low + high) / 2, (high - low) / 254
    steps = (embedding - offset[:, None, None]) / np.where(scale > 0, scale, 1)[:, None, None]
    values = np.rint(steps).clip(-127, 127).astype(np.int8)
    return offset.astype("<f4").tobytes() + scale.astype("<f4").tobytes() + values.tobytes()


def write_format_1(
    folder: Path,
    data_set: str,
    settings: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    embedding_of: Callable[[str, int], np.ndarray],
    dtype: str = "fp16",
    views: Sequence[str] = ("original", "flipped"),
    records_per_shard: int = 32,
) -> None:
    """``embedding_of`` a view and a picture's number is float32 [channels, h, w]; ``records`` are one a picture."""
    paths = [Path(record["file_name"]) for record in records]
    origin = {
        "format": 1,
        "data_set": data_set,
        "settings": settings,
        "pictures": [
            [path.name, record["image_id"], record["height"], record["width"], path.stat().st_size]
            for path, record in zip(paths, records)
        ],
        "shape": list(embedding_of(views[0], 0).shape),
        "dtype": dtype,
        "records_per_shard": records_per_shard,
    }
    sealed = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).digest()
    folder.mkdir(parents=True)
    shards = {}
    for first in range(0, len(records), records_per_shard):
        for view in views:
            name = f"{view}-{first // records_per_shard:05d}.bin"
            content = hashlib.sha256(sealed + name.encode()).digest()
            for number in range(first, min(first + records_per_shard, len(records))):
                packed = payload(embedding_of(view, number), dtype)
                content += packed + zlib.crc32(packed).to_bytes(4, "little")
            (folder / name).write_bytes(content)
            shards[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {**origin, "views": list(views), "shards": shards}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
    (folder / "manifest.json").write_text(f"{{\n{lines}\n}}\n")
