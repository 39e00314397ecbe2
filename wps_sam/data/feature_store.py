"""SAM's image embeddings of a data set on disk: made once, read in every epoch.

A cache is one folder that can be moved: ``manifest.json``, which says what it was made of, and shards of each view::

    shard    seal (32 bytes), then records, all of one size
    record   payload, then its CRC-32 (4 bytes, little endian)
    payload  embedding [256, h, w] as float32 or float16; int8: offset float32 [256], scale float32 [256], values

The seal is the SHA-256 of all that the manifest says but of its shards, and of the shard's name: a shard of another
cache, or in the place of another, is noticed. Shards appear whole or not at all, the manifest last; nothing in them
depends on when, by how many processes or after how many interruptions they were written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from wps_sam.checkpointer import write_atomically
from wps_sam.masks import record_size

import numpy as np
import torch

logger = logging.getLogger(__name__)

VIEWS = ("original", "flipped")
DTYPES = ("fp16", "fp32", "int8")
MANIFEST = "manifest.json"
# A kill costs a process at most so many embeddings; at 2 MiB each (ViT-B, fp16) a shard has 64 MiB.
RECORDS_PER_SHARD = 32
_SEAL_BYTES = 32
_CRC_BYTES = 4
_FLOATS = {"fp16": "<f2", "fp32": "<f4"}


# ------------------------------------------------------------------ one embedding


def payload_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Size of an embedding of ``shape`` [channels, h, w] on disk."""
    values = int(np.prod(shape))
    return values + 8 * shape[0] if dtype == "int8" else values * np.dtype(_FLOATS[dtype]).itemsize


def pack(embedding: torch.Tensor, dtype: str) -> bytes:
    """Embedding float [channels, h, w] to bytes.

    int8 spreads each channel's range over 255 steps: SAM's channels are mostly a constant with a ripple on it, which
    steps around 0 would lose. The error is at most half a step, (max - min) / 508.

    Raises:
        ValueError: a value is not finite, or not in fp16.
    """
    values = embedding.detach().cpu().float().numpy()
    # A value beyond its range becomes infinite, and is told of below.
    with np.errstate(over="ignore"):
        packed = values if dtype == "int8" else values.astype(_FLOATS[dtype])
    if not np.isfinite(packed).all():
        raise ValueError(f"an image embedding holds values up to {np.abs(values).max()}, which {dtype} can't hold")
    if dtype != "int8":
        return packed.tobytes()
    low, high = values.min(axis=(1, 2)), values.max(axis=(1, 2))
    offset, scale = (low + high) / 2, (high - low) / 254
    steps = (values - offset[:, None, None]) / np.where(scale > 0, scale, 1)[:, None, None]
    quantised = np.rint(steps).clip(-127, 127).astype(np.int8)
    return offset.astype("<f4").tobytes() + scale.astype("<f4").tobytes() + quantised.tobytes()


def unpack(payload: np.ndarray, dtype: str, shape: Sequence[int]) -> torch.Tensor:
    """Bytes uint8 [n] of :func:`pack` to an embedding of ``shape``: float16 of fp16, less to copy, else float32."""
    if dtype != "int8":
        return torch.from_numpy(payload.view(_FLOATS[dtype]).reshape(shape))
    channels = shape[0]
    offset, scale = payload[: 8 * channels].view("<f4").reshape(2, channels, 1, 1)
    return torch.from_numpy(payload[8 * channels :].view(np.int8).reshape(shape) * scale + offset)


# ------------------------------------------------------------------ what a cache is made of


def distinct_pictures(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first record of every picture: sets of objects have several of one, with the same features."""
    first: dict[str, Mapping[str, Any]] = {}
    for record in records:
        first.setdefault(record["file_name"], record)
    return list(first.values())


@dataclass(frozen=True)
class CacheSpec:
    """All that the bytes of a cache follow from.

    ``settings``: keys of the configuration (the value of MODEL.SAM.WEIGHTS is a hash) and their values. ``pictures``:
    per picture [base name, image_id, height, width, bytes of its file]. ``shape`` [channels, h, w] of an embedding.
    """

    data_set: str
    settings: Mapping[str, Any]
    pictures: Sequence[Sequence[Any]]
    shape: Sequence[int]
    dtype: str
    records_per_shard: int = RECORDS_PER_SHARD

    @classmethod
    def of(
        cls, data_set: str, records: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], shape: Sequence[int],
        dtype: str, records_per_shard: int = RECORDS_PER_SHARD,
    ) -> CacheSpec:  # fmt: skip
        """The cache of a data set's ``records``, one for each picture.

        Raises:
            ValueError: names a picture that does not exist.
        """
        pictures = []
        for record in records:
            path = record["file_name"]
            try:
                size = os.path.getsize(path)
            except FileNotFoundError:
                raise ValueError(f"{path}: the picture of the feature cache does not exist") from None
            pictures.append([os.path.basename(path), record["image_id"], *record_size(record), size])
        return cls(data_set, settings, pictures, list(shape), dtype, records_per_shard)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> CacheSpec:
        return cls(**{key: manifest[key] for key in cls.__dataclass_fields__})

    def to_manifest(self) -> dict[str, Any]:
        return {"format": 1, **{key: getattr(self, key) for key in self.__dataclass_fields__}}

    @property
    def record_bytes(self) -> int:
        return payload_bytes(self.dtype, self.shape) + _CRC_BYTES

    def difference(self, expected: CacheSpec) -> str | None:
        """What a cache of this spec has that ``expected`` asks otherwise; None if it will do."""
        if self.data_set != expected.data_set:
            return f"it is of the data set {self.data_set!r}, not {expected.data_set!r}"
        for key, value in expected.settings.items():
            if self.settings.get(key) != value:
                return f"it was made with {key} {self.settings.get(key)!r}, and the config says {value!r}"
        if self.shape != expected.shape:
            return f"its embeddings have the shape {self.shape}, not {expected.shape}"
        if len(self.pictures) != len(expected.pictures):
            return f"it is of {len(self.pictures)} pictures, and {self.data_set} has {len(expected.pictures)}"
        for made, now in zip(self.pictures, expected.pictures):
            if made != now:
                return f"a picture [name, id, height, width, bytes] was {list(made)} and is {list(now)}"
        return None


@dataclass(frozen=True)
class Shard:
    """``count`` records from the picture number ``first`` on, of one view."""

    view: str
    first: int
    count: int
    name: str


def shards_of(spec: CacheSpec, views: Sequence[str]) -> list[Shard]:
    """All shards of a cache, in the order of their pictures."""
    step, total = spec.records_per_shard, len(spec.pictures)
    return [
        Shard(view, first, min(step, total - first), f"{view}-{first // step:05d}.bin")
        for first in range(0, total, step)
        for view in views
    ]


class _Folder:
    """What reader and writer have in common."""

    def __init__(self, folder: str | Path, spec: CacheSpec) -> None:
        self.folder = Path(folder)
        self.spec = spec
        self._origin = hashlib.sha256(json.dumps(spec.to_manifest(), sort_keys=True).encode()).digest()

    def seal(self, shard: Shard) -> bytes:
        return hashlib.sha256(self._origin + shard.name.encode()).digest()

    def shard_bytes(self, shard: Shard) -> int:
        return _SEAL_BYTES + shard.count * self.spec.record_bytes

    def _has_size(self, shard: Shard) -> bool:
        path = self.folder / shard.name
        return path.is_file() and path.stat().st_size == self.shard_bytes(shard)


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a finished cache; None if there is none.

    Raises:
        ValueError: it is damaged, or of another format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != 1:
            raise ValueError(f"format {manifest['format']}, expected 1")
        CacheSpec.from_manifest(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the manifest of a feature cache ({error!r}); delete the folder") from error
    return manifest


def _read_seal(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SEAL_BYTES)


# ------------------------------------------------------------------ reading


class FeatureCacheReader(_Folder):
    """Embeddings by record and view. Holds no file open, so worker processes may share it.

    Args:
        folder: of the cache.
        expected: what the config and the data set ask for; its dtype and shard size don't matter.
        records: :func:`distinct_pictures` of the data set, as for ``expected``.
        views: that will be asked for.

    Raises:
        ValueError: there is no finished cache, it is of something else, it lacks a view, or a shard of it is missing
            or damaged; says which, and what to do.
    """

    def __init__(
        self, folder: str | Path, expected: CacheSpec, records: Sequence[Mapping[str, Any]], views: Sequence[str]
    ) -> None:
        manifest = read_manifest(folder)
        if manifest is None:
            raise ValueError(
                f"{folder}: no finished feature cache; run tools/cache_features.py with this config, which also "
                "goes on with one that was interrupted"
            )
        spec = CacheSpec.from_manifest(manifest)
        different = spec.difference(expected)
        if different:
            raise ValueError(
                f"{folder}: this feature cache does not fit: {different}. Run tools/cache_features.py with this "
                "config and another MODEL.SAM.CACHE_DIR, or delete the folder first"
            )
        missing = [view for view in views if view not in manifest["views"]]
        if missing:
            raise ValueError(
                f"{folder}: this feature cache holds the views {manifest['views']}, but INPUT.RANDOM_FLIP asks for "
                f"{missing[0]!r} too; run tools/cache_features.py with this config, which adds it"
            )
        super().__init__(folder, spec)
        for shard in shards_of(spec, views):
            path = self.folder / shard.name
            if not self._has_size(shard) or _read_seal(path) != self.seal(shard):
                found = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
                raise ValueError(
                    f"{path}: the shard {found}; expected {self.shard_bytes(shard)} bytes that belong to this cache. "
                    "Run tools/cache_features.py with this config: it makes such shards anew"
                )
        self._positions = {record["file_name"]: i for i, record in enumerate(records)}

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        return record["file_name"] in self._positions

    def read(self, record: Mapping[str, Any], view: str) -> torch.Tensor:
        """The embedding [256, S/16, S/16], float16 or float32, of a record's picture in one of ``VIEWS``.

        Raises:
            ValueError: names the shard whose bytes have changed since it was written.
        """
        spec = self.spec
        number, place = divmod(self._positions[record["file_name"]], spec.records_per_shard)
        path = self.folder / f"{view}-{number:05d}.bin"
        start = _SEAL_BYTES + place * spec.record_bytes
        found = np.fromfile(path, np.uint8, count=spec.record_bytes, offset=start)
        if not _is_whole(found, spec.record_bytes):
            raise ValueError(
                f"{path}: the features of {record['file_name']} are damaged (their checksum does not fit); run "
                "tools/cache_features.py with this config, which makes such shards anew"
            )
        return unpack(found[:-_CRC_BYTES], spec.dtype, spec.shape)


class FeatureReaders:
    """The caches of several data sets as one."""

    def __init__(self, readers: Sequence[FeatureCacheReader]) -> None:
        self.readers = readers

    def read(self, record: Mapping[str, Any], view: str) -> torch.Tensor:
        """As :meth:`FeatureCacheReader.read`."""
        for reader in self.readers:
            if record in reader:
                return reader.read(record, view)
        folders = ", ".join(str(reader.folder) for reader in self.readers)
        raise ValueError(f"{record['file_name']}: not in the feature caches {folders}")


def _is_whole(record: np.ndarray, size: int) -> bool:
    return len(record) == size and zlib.crc32(record[:-_CRC_BYTES].data) == int(record[-_CRC_BYTES:].view("<u4")[0])


# ------------------------------------------------------------------ writing


class FeatureCacheWriter(_Folder):
    """Writes a cache shard by shard, in any order, by any number of processes.

    The views of a cache that is there already are kept: ``views`` holds them and those asked for.

    Raises:
        ValueError: the folder holds the features of something else. Nothing is deleted.
    """

    def __init__(self, folder: str | Path, spec: CacheSpec, views: Sequence[str]) -> None:
        manifest = read_manifest(folder) or {"views": [], "shards": {}}
        different = None
        if manifest["shards"]:
            made = CacheSpec.from_manifest(manifest)
            different = made.difference(spec)
            if made.dtype != spec.dtype:
                different = f"its features are {made.dtype}, not {spec.dtype}"
            spec = made
        super().__init__(folder, spec)
        different = different or self._foreign_shard()
        if different:
            raise ValueError(
                f"{folder}: holds another feature cache: {different}. Choose another --output, or delete the folder "
                "first"
            )
        self.views = [view for view in VIEWS if view in manifest["views"] or view in views]
        self.shards = shards_of(spec, self.views)
        self._checksums: dict[str, str] = {name: entry["sha256"] for name, entry in manifest["shards"].items()}

    def _foreign_shard(self) -> str | None:
        """A shard that was not written for this cache; one of a finished cache can only be damaged."""
        known = {shard.name: shard for shard in shards_of(self.spec, VIEWS)}
        finished = (self.folder / MANIFEST).is_file()
        for path in sorted(self.folder.glob("*.bin")) if not finished else []:
            seal = _read_seal(path)
            if path.name not in known or (len(seal) == _SEAL_BYTES and seal != self.seal(known[path.name])):
                return f"{path.name}, of an unfinished one, was made of other pictures or with other settings"
        return None

    def prepare(self) -> None:
        """Makes the folder, and clears it of what killed processes left half written. By one process, before any."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.tmp"):
            path.unlink()

    def missing(self) -> list[Shard]:
        """Shards that are not there, or not of their size."""
        return [shard for shard in self.shards if not self._has_size(shard)]

    def checksum(self, shard: Shard) -> str | None:
        """SHA-256 of a shard that is there; None if it is damaged, and to be written again."""
        digest = hashlib.sha256()
        with (self.folder / shard.name).open("rb") as file:
            seal = file.read(_SEAL_BYTES)
            digest.update(seal)
            whole = seal == self.seal(shard)
            for _ in range(shard.count):
                record = file.read(self.spec.record_bytes)
                digest.update(record)
                whole = whole and _is_whole(np.frombuffer(record, np.uint8), self.spec.record_bytes)
        if whole and digest.hexdigest() == self._checksums.get(shard.name, digest.hexdigest()):
            return digest.hexdigest()
        logger.warning("%s is damaged and will be made anew", self.folder / shard.name)
        return None

    def write(self, shard: Shard, embeddings: Iterable[torch.Tensor]) -> str:
        """Writes a shard from the embeddings [256, S/16, S/16] of its pictures, and returns its SHA-256."""
        digest = hashlib.sha256()

        def chunks() -> Iterator[bytes]:
            yield self.seal(shard)
            count = 0
            for embedding in embeddings:
                assert list(embedding.shape) == list(self.spec.shape), embedding.shape
                payload = pack(embedding, self.spec.dtype)
                yield payload + zlib.crc32(payload).to_bytes(_CRC_BYTES, "little")
                count += 1
            assert count == shard.count, (count, shard)

        def write(file: BinaryIO) -> None:
            for chunk in chunks():
                digest.update(chunk)
                file.write(chunk)

        write_atomically(self.folder / shard.name, write)
        return digest.hexdigest()

    def finish(self, checksums: Mapping[str, str]) -> None:
        """Writes the manifest, given the SHA-256 of every shard by its name. By one process, after all."""
        shards = {s.name: {"bytes": self.shard_bytes(s), "sha256": checksums[s.name]} for s in self.shards}
        manifest = {**self.spec.to_manifest(), "views": self.views, "shards": shards}
        # A line for each key: there may be very many pictures.
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
        text = f"{{\n{lines}\n}}\n"
        write_atomically(self.folder / MANIFEST, lambda file: file.write(text.encode()))


def check_free_space(folder: str | Path, needed: int) -> None:
    """Requires room for ``needed`` bytes on the disk of ``folder``, which exists.

    Raises:
        ValueError: says how much there is.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder}: the features need {readable_size(needed)} more, but only {readable_size(free)} of the disk are "
            "free; choose another --output, or a smaller --dtype"
        )


def readable_size(count: int) -> str:
    """Bytes in MiB, or GiB from one on."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
