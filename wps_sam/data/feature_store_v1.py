"""Reads feature caches of format 1, for ``tools/cache_features.py --convert``.

One folder with ``manifest.json`` and shards of each view::

    {view}-{number:05d}.bin   seal (32 bytes), then records, all of one size
    record                    payload, then its CRC-32 (4 bytes, little endian)
    payload                   embedding [256, h, w] as float32 or float16; int8: offset and scale, float32 [256] each,
                              then values

The seal is the SHA-256 of all that the manifest says but of its views and shards, and of the shard's name.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from wps_sam.data.feature_store import Manifest, StoreSpec, check_manifest, packed_layout, read_manifest

import torch
from torch import Tensor

_SEAL_BYTES = 32
_CRC_BYTES = 4


class FeatureStoreReaderV1:
    """Stored tensors by picture and view.

    Args:
        folder: of the cache.
        spec: what the config and the data set ask for, in settings of format 1; its dtype does not matter.

    Raises:
        ValueError: there is no finished cache of format 1, or it is of something else.
    """

    def __init__(self, folder: str | Path, spec: StoreSpec) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder, 1, self._build)
        check_manifest(folder, self.manifest, spec)
        self._layout = packed_layout(self.manifest.features, self.manifest.dtype)

    def _build(self, content: dict[str, Any]) -> Manifest:
        views, _ = content.pop("views"), content.pop("shards")
        self._origin = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
        features, pictures = {"image_embedding": content.pop("shape")}, content.pop("pictures")
        # Neither the contents nor the modification times of pictures are known.
        rows, mtimes = [[*row, None] for row in pictures], [None] * len(pictures)
        return Manifest(**content, features=features, pictures=rows, mtimes=mtimes, views=views)

    def read(self, number: int, view: str) -> dict[str, Tensor]:
        """What :func:`wps_sam.data.feature_store.pack` makes of the features of a picture, bit by bit as it was stored.

        Raises:
            ValueError: names the shard, which is missing, cut off or of another cache, or whose bytes have changed.
        """
        shard, place = divmod(number, self.manifest.records_per_shard)
        path = self.folder / f"{view}-{shard:05d}.bin"
        size = sum(tensor.nbytes for tensor in self._layout.values()) + _CRC_BYTES
        seal = record = b""
        if path.is_file():
            with path.open("rb") as file:
                seal = file.read(_SEAL_BYTES)
                file.seek(_SEAL_BYTES + place * size)
                record = file.read(size)
        payload, checksum = bytearray(record[:-_CRC_BYTES]), int.from_bytes(record[-_CRC_BYTES:], "little")
        fits = seal == hashlib.sha256(self._origin + path.name.encode()).digest()
        if not fits or len(record) != size or zlib.crc32(payload) != checksum:
            raise ValueError(
                f"{path}: the features of {self.manifest.pictures[number][0]} are missing, damaged or of another "
                "cache; run tools/cache_features.py without --convert"
            )
        packed, start = {}, 0
        # int8's offset and scale come first, as pack makes them.
        for name, tensor in self._layout.items():
            values = torch.frombuffer(payload, dtype=tensor.dtype, count=tensor.numel(), offset=start)
            packed[name], start = values.reshape(tensor.shape), start + tensor.nbytes
        return packed
