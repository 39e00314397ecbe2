"""Features of a data set's pictures on disk: made once by a frozen encoder, read in every epoch.

A store is one folder, which can be moved: ``manifest.json``, and shards of each view in safetensors' format::

    {view}-{number:05d}.safetensors
        {place:04d}.{feature}     a tensor of each picture and feature, see :func:`pack`
        metadata "wps_sam"        JSON: the seal, and checksums, the XXH3 (64 bits) of each picture's bytes

The seal is the SHA-256 of all that the shard's features follow from, settings and pictures as the manifest says them,
and of its name: a shard of another store, or in the place of another, is noticed. Shards appear whole or not at all,
the manifest last; nothing in a shard depends on when, by how many processes and machines or after how many
interruptions it was written, so that shares of a store can be made apart from each other.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from wps_sam.checkpointer import write_atomically
from wps_sam.masks import record_size
from wps_sam.shares import WHOLE, Share

import numpy as np
import torch
import xxhash
from safetensors.torch import save
from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT = 2
MANIFEST = "manifest.json"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "int8": torch.int8}
# A kill costs a process at most one shard.
SHARD_BYTES = 64 << 20
MAX_RECORDS_PER_SHARD = 32
_METADATA = "wps_sam"
_PIECE_BYTES = 64 << 10
_ANEW = "run tools/cache_features.py with this config, which makes such shards anew"

Records = Sequence[Mapping[str, Any]]


# ------------------------------------------------------------------ the features of one picture


def pack(features: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Features, float [channels, ...] each, to the tensors that are stored, which share no memory with them.

    int8 spreads each channel's range over 255 steps and adds "{name}.offset" and "{name}.scale", float32 [channels]:
    SAM's channels are mostly a constant with a ripple on it, which steps around 0 would lose. The error is at most half
    a step, (max - min) / 508.

    Raises:
        ValueError: names a feature with a value that is not finite, or not in fp16.
    """
    packed: dict[str, Tensor] = {}
    # From there on fp16 rounds to infinity.
    limit = 65520 if dtype == "fp16" else np.inf
    for name, feature in features.items():
        values = np.ascontiguousarray(feature.detach().cpu().float().numpy())
        if not (-limit < values.min() and values.max() < limit):
            raise ValueError(f"{name} holds values up to {np.abs(values).max()}, which {dtype} can't hold")
        if dtype == "int8":
            of_channels = values.reshape(len(values), -1)
            low, high = of_channels.min(axis=1, keepdims=True), of_channels.max(axis=1, keepdims=True)
            offset, scale = (low + high) / 2, (high - low) / 254
            steps = np.rint((of_channels - offset) / np.where(scale > 0, scale, 1)).clip(-127, 127)
            packed[f"{name}.offset"] = torch.from_numpy(offset[:, 0])
            packed[f"{name}.scale"] = torch.from_numpy(scale[:, 0])
            packed[name] = torch.from_numpy(steps.astype(np.int8).reshape(values.shape))
        else:
            packed[name] = torch.empty(values.shape, dtype=DTYPES[dtype])
            # Slow in numpy; and so few values at once don't wake PyTorch's threads, which are slow on a busy machine.
            parts = (tensor.flatten().split(1 << 15) for tensor in (packed[name], torch.from_numpy(values)))
            for part, exact in zip(*parts):
                part.copy_(exact)
    return packed


def unpack(packed: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The features ``names`` of what :func:`pack` made: float16 of fp16, less to copy, else float32."""
    features = {name: packed[name] for name in names}
    for name, steps in features.items():
        if steps.dtype == torch.int8:
            offset, scale = (packed[f"{name}.{part}"].numpy()[:, None] for part in ("offset", "scale"))
            values = steps.numpy().reshape(len(steps), -1) * scale + offset
            features[name] = torch.from_numpy(values.reshape(steps.shape))
    return features


def packed_layout(features: Mapping[str, list[int]], dtype: str) -> dict[str, Tensor]:
    """What :func:`pack` makes of features of these shapes, without its memory."""
    packed = pack({name: torch.zeros(shape) for name, shape in features.items()}, dtype)
    return {name: tensor.to("meta") for name, tensor in packed.items()}


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data


# ------------------------------------------------------------------ what a store is made of


def distinct_pictures(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first record of every picture: sets of objects have several of one, with the same features."""
    first: dict[str, Mapping[str, Any]] = {}
    for record in records:
        first.setdefault(record["file_name"], record)
    return list(first.values())


@dataclass(frozen=True)
class StoreSpec:
    """What features are asked for.

    Args:
        data_set: its registered name.
        settings: all that the features follow from beside the pictures, JSON values by name.
        pictures: :func:`distinct_pictures` of the data set.
        features: the shape [channels, ...] of each feature.
        dtype: of the files, one of :data:`DTYPES`.
    """

    data_set: str
    settings: Mapping[str, Any]
    pictures: Records
    features: Mapping[str, list[int]]
    dtype: str


@dataclass(frozen=True)
class Shard:
    """``count`` pictures from the number ``first`` on, in one view."""

    name: str
    view: str
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store was made of, see :class:`StoreSpec`, and what it holds.

    Args:
        pictures: [base name, image_id, height, width, bytes, XXH3 of the content] of each; before the last "upright" of
            those that are turned as their EXIF tag says. None for those that another share of the store looks at.
        mtimes: the modification time in ns of each picture's file, as it was before its content was read.
        shards: the XXH3 of each shard's header by its name.
    """

    format: int = FORMAT
    data_set: str
    settings: Mapping[str, Any]
    features: Mapping[str, list[int]]
    dtype: str
    records_per_shard: int
    pictures: Sequence[Any]
    mtimes: Sequence[int | None]
    views: Sequence[str] = ()
    shards: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """That of a finished store, see :func:`read_manifest`."""
        return read_manifest(folder, FORMAT, lambda content: cls(**content))

    @classmethod
    def of(cls, spec: StoreSpec, known: Manifest | None = None, share: Share = WHOLE) -> Manifest:
        """The manifest of a store to be made. Reads all pictures of a share but those that are as ``known`` says.

        Raises:
            ValueError: names a picture that does not exist.
        """
        record_bytes = sum(tensor.nbytes for tensor in packed_layout(spec.features, spec.dtype).values())
        step = min(max(SHARD_BYTES // record_bytes, 1), MAX_RECORDS_PER_SHARD)
        pairs = itertools.chain(zip(known.pictures, known.mtimes) if known else (), itertools.repeat((None, None)))
        described = [
            _describe(record, *pair) if share.has(place // step) else (None, None)
            for place, (record, pair) in enumerate(zip(spec.pictures, pairs))
        ]
        rows, mtimes = [row for row, _ in described], [mtime for _, mtime in described]
        return cls(**{**vars(spec), "pictures": rows}, records_per_shard=step, mtimes=mtimes)

    def origin(self, *without: str) -> bytes:
        """SHA-256 of all that the bytes of shards follow from, but what is named."""
        left_out = ("mtimes", "views", "shards", *without)
        content = {key: value for key, value in vars(self).items() if key not in left_out}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()

    def shards_of(self, views: Iterable[str], share: Share = WHOLE) -> list[Shard]:
        """The shards of these views in a share, in the order of their pictures, each picture in one share alone."""
        step, total = self.records_per_shard, len(self.pictures)
        return [
            Shard(_shard_name(view, first // step), view, first, min(step, total - first))
            for first in range(0, total, step)
            if share.has(first // step)
            for view in views
        ]

    def difference(self, asked: Manifest) -> str | None:
        """The first thing that is asked for otherwise; None if the store will do."""
        settings = {**self.settings, **asked.settings}
        pairs = [
            ("the data set", self.data_set, asked.data_set),
            *((key, self.settings.get(key), asked.settings.get(key)) for key in settings),
            ("features of the shapes", self.features, asked.features),
            ("the dtype", self.dtype, asked.dtype),
            ("the number of pictures", len(self.pictures), len(asked.pictures)),
            *(("the picture", was, now) for was, now in zip(self.pictures, asked.pictures) if now is not None),
        ]
        for what, was, now in pairs:
            if was != now:
                return f"it was made with {what} {was!r}, and {now!r} is asked for"
        return None


def read_manifest(folder: str | Path, expected: int, build: Callable[[dict[str, Any]], Manifest]) -> Manifest:
    """The manifest of a finished store of the format ``expected``, built from its JSON.

    Raises:
        ValueError: there is none, or it is damaged or of another format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder}: no finished feature cache; run tools/cache_features.py with this config, which also goes on "
            "with one that was interrupted"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
        if found == expected:
            return build(content)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a feature cache's manifest ({error!r}); delete the folder") from error
    raise ValueError(
        f"{path}: this feature cache is of format {found!r}, expected {expected}. One of format 1 is converted by "
        f"tools/cache_features.py --config-file FILE --convert {Path(folder).absolute().parent} --output ANOTHER"
    )


def check_manifest(folder: str | Path, manifest: Manifest, spec: StoreSpec) -> None:
    """Requires that a store is what ``spec`` asks for, its dtype aside.

    Raises:
        ValueError: says what differs first, and what to do.
    """
    asked = Manifest.of(replace(spec, dtype=manifest.dtype), known=manifest)
    if any(was not in (None, now) for was, now in zip(manifest.mtimes, asked.mtimes)):
        # Time that tools/cache_features.py saves the next time, by noting the new times.
        logger.info("%s: pictures were moved or changed since, and had to be read", folder)
    different = manifest.difference(asked)
    if different:
        raise ValueError(
            f"{folder}: this feature cache does not fit: {different}. Run tools/cache_features.py with this config and "
            "another MODEL.SAM.CACHE_DIR, or delete the folder first"
        )


def _describe(record: Mapping[str, Any], known: list[Any] | None, known_mtime: int | None) -> tuple[list[Any], int]:
    """Row and modification time of a picture, whose content is read if the file is younger or older than known."""
    path = record["file_name"]
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: the picture of the feature cache does not exist") from None
    row = [os.path.basename(path), record["image_id"], *record_size(record), found.st_size]
    if record.get("exif") == "upright":
        row.append("upright")
    # Caches of format 1 have no modification times: they trust every picture of the right size.
    if known is not None and known_mtime in (None, found.st_mtime_ns):
        return [*row, known[-1]], found.st_mtime_ns
    return [*row, xxhash.xxh3_64_hexdigest(Path(path).read_bytes())], found.st_mtime_ns


def _shard_name(view: str, number: int) -> str:
    return f"{view}-{number:05d}.safetensors"


# ------------------------------------------------------------------ shards


class _Header(NamedTuple):
    """Of a shard: the XXH3 of the header's bytes, its metadata, and where in the file each tensor begins."""

    digest: str
    seal: str
    checksums: list[str]
    offsets: dict[str, int]


def _read_header(path: Path) -> _Header | None:
    """None if the shard is missing, cut off, or none at all.

    The library shows no offsets. The format: https://github.com/huggingface/safetensors#format
    """
    try:
        with path.open("rb") as file:
            start, size = 8 + int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
            text = file.read(min(start, size) - 8)
        tensors = json.loads(text)
        metadata = json.loads(tensors.pop("__metadata__")[_METADATA])
        if size != start + max(tensor["data_offsets"][1] for tensor in tensors.values()):
            return None
        offsets = {name: start + tensor["data_offsets"][0] for name, tensor in tensors.items()}
        return _Header(xxhash.xxh3_64_hexdigest(text), offsets=offsets, **metadata)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class _Store:
    """What reader and writer have in common."""

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        self._layout = packed_layout(manifest.features, manifest.dtype)
        self._origin, self._origin_of_all = manifest.origin("pictures"), manifest.origin()

    def _seal(self, shard: Shard) -> str:
        pictures = self.manifest.pictures[shard.first : shard.first + shard.count]
        return hashlib.sha256(self._origin + json.dumps([shard.name, pictures]).encode()).hexdigest()

    def _is_sealed(self, shard: Shard, header: _Header) -> bool:
        # Until November 2026 every shard's seal was of all pictures.
        of_all = hashlib.sha256(self._origin_of_all + shard.name.encode()).hexdigest()
        return header.seal in (self._seal(shard), of_all)

    def _header(self, shard: Shard) -> _Header | None:
        """None if the shard is missing, cut off, not of this store, or not the one that the manifest knows."""
        header = _read_header(self.folder / shard.name)
        if header is None or not self._is_sealed(shard, header):
            return None
        known = self.manifest.shards.get(shard.name, header.digest)
        names = {f"{place:04d}.{name}" for place in range(shard.count) for name in self._layout}
        return header if header.digest == known and header.offsets.keys() == names else None

    def _read(self, name: str, header: _Header, place: int) -> dict[str, Tensor] | None:
        """The tensors of a picture in the shard ``name``; None if a byte of them has changed."""
        packed = {key: torch.empty_like(tensor, device="cpu") for key, tensor in self._layout.items()}
        checksum = xxhash.xxh3_64()
        # Not mapped into memory: a file that is cut short later would end the process. In pieces, as the system fetches
        # the next ones meanwhile.
        with (self.folder / name).open("rb", buffering=0) as file:
            for key, tensor in packed.items():
                file.seek(header.offsets[f"{place:04d}.{key}"])
                whole = _bytes_of(tensor)
                for start in range(0, len(whole), _PIECE_BYTES):
                    piece = whole[start : start + _PIECE_BYTES]
                    if file.readinto(piece) != len(piece):
                        return None
                    checksum.update(piece)
        return packed if checksum.hexdigest() == header.checksums[place] else None


class FeatureStoreReader(_Store):
    """Features by record and view. Holds no file open, so worker processes may share it.

    Args:
        folder: of the store.
        spec: what the config and the data set ask for; its dtype does not matter.
        views: that will be asked for.

    Raises:
        ValueError: there is no finished store, it is of something else, it lacks a view, or a shard of it is missing or
            damaged; says which, and what to do.
    """

    def __init__(self, folder: str | Path, spec: StoreSpec, views: Sequence[str]) -> None:
        super().__init__(folder, Manifest.read(folder))
        check_manifest(folder, self.manifest, spec)
        missing = [view for view in views if view not in self.manifest.views]
        if missing:
            raise ValueError(
                f"{folder}: this feature cache holds the views {self.manifest.views}, but INPUT.RANDOM_FLIP or "
                f"RANDOM_VIEWS asks for {missing[0]!r} too; run tools/cache_features.py with this config, which adds it"
            )
        self._positions = {record["file_name"]: i for i, record in enumerate(spec.pictures)}
        self._headers: dict[str, _Header] = {}
        for shard in self.manifest.shards_of(views):
            header, path = self._header(shard), self.folder / shard.name
            if header is None:
                found = "is cut off, or not of this cache" if path.is_file() else "is missing"
                raise ValueError(f"{path}: the shard {found}; {_ANEW}")
            self._headers[shard.name] = header

    def contents(self) -> dict[str, str]:
        """The XXH3 of each picture, by its path."""
        return {path: self.manifest.pictures[i][-1] for path, i in self._positions.items()}

    def read(self, record: Mapping[str, Any], view: str) -> dict[str, Tensor]:
        """The features of a record's picture by name, float16 or float32, in the shapes of the spec.

        Raises:
            ValueError: the picture is none of the data set's; or names the shard whose bytes have changed since it was
                written.
        """
        if record["file_name"] not in self._positions:
            raise ValueError(f"{record['file_name']}: not in the feature cache {self.folder}")
        number, place = divmod(self._positions[record["file_name"]], self.manifest.records_per_shard)
        name = _shard_name(view, number)
        packed = self._read(name, self._headers[name], place)
        if packed is None:
            raise ValueError(
                f"{self.folder / name}: the features of {record['file_name']} are damaged (their checksum does not "
                f"fit); {_ANEW}"
            )
        return unpack(packed, self.manifest.features)


class FeatureStoreWriter(_Store):
    """Writes a store shard by shard, in any order, by any number of processes.

    The views of a store that is there already are kept: ``views`` holds them and those asked for. Of a share only its
    own shards, ``shards``, and their pictures are looked at; a writer of the whole store makes what is missing then,
    and finishes it.

    Raises:
        ValueError: the folder holds the features of something else. Nothing is deleted.
    """

    def __init__(self, folder: str | Path, spec: StoreSpec, views: Sequence[str], share: Share = WHOLE) -> None:
        asked = Manifest.of(spec, share=share)
        self.share = share
        finished = (Path(folder) / MANIFEST).is_file()
        super().__init__(folder, Manifest.read(folder) if finished else asked)
        if finished:
            self._require_none(self.manifest.difference(asked))
        else:
            self.check_shards()
        self.manifest = replace(self.manifest, mtimes=asked.mtimes)
        self.pictures = spec.pictures
        self.views = list(dict.fromkeys((*self.manifest.views, *views)))
        self.shards = self.manifest.shards_of(self.views, share)

    def _require_none(self, different: str | None) -> None:
        if different:
            raise ValueError(
                f"{self.folder}: holds another feature cache: {different}. Choose another --output, or delete the "
                "folder first"
            )

    def check_shards(self) -> None:
        """Requires that the shards of an unfinished store are this one's.

        Raises:
            ValueError: names one that is not.
        """
        paths = sorted(self.folder.glob("*"))
        views = sorted({path.stem.rpartition("-")[0] for path in paths})
        ours = {shard.name: shard for shard in self.manifest.shards_of(views, self.share)}
        for path in paths:
            shard = ours.get(path.name)
            looked_at = path.suffix == ".safetensors" and (shard is not None or self.share.is_whole)
            header = _read_header(path) if looked_at else None
            if path.suffix == ".bin" or (header and not (shard and self._is_sealed(shard, header))):
                self._require_none(
                    f"{path.name}, of an unfinished one, was made of other pictures or with other settings"
                )

    def shard_bytes(self, shard: Shard) -> int:
        """Size of a shard, or a little more: its header is not known before it is written."""
        return shard.count * (sum(tensor.nbytes + 256 for tensor in self._layout.values())) + 512

    def prepare(self) -> None:
        """Makes the folder, and clears it of what killed processes left half written. By one process, before any.

        Of a share only what is its own: others may be at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        names = {shard.name for shard in self.shards}
        for path in self.folder.glob("*.tmp"):
            if self.share.is_whole or path.name.rsplit(".", 2)[0] in names:
                path.unlink()

    def missing(self) -> list[Shard]:
        """Shards that are not there, or that the reader would not open."""
        return [shard for shard in self.shards if self._header(shard) is None]

    def check(self, shard: Shard) -> str | None:
        """Reads every byte of a shard. Returns its digest; None if it is damaged, and to be written again."""
        header = self._header(shard)
        if header is not None and all(self._read(shard.name, header, place) for place in range(shard.count)):
            return header.digest
        logger.warning("%s is damaged and will be made anew", self.folder / shard.name)
        return None

    def write(self, shard: Shard, records: Iterable[Mapping[str, Tensor]]) -> str:
        """Writes a shard from what :func:`pack` made of each of its pictures, and returns its digest."""
        tensors, checksums = {}, []
        for place, packed in enumerate(records):
            checksum = xxhash.xxh3_64()
            for name, expected in self._layout.items():
                assert packed[name].shape == expected.shape, (name, packed[name].shape)
                tensors[f"{place:04d}.{name}"] = packed[name]
                checksum.update(_bytes_of(packed[name]))
            checksums.append(checksum.hexdigest())
        assert len(checksums) == shard.count, (len(checksums), shard)
        # One entry only: the library writes several in changing order.
        metadata = {_METADATA: json.dumps({"seal": self._seal(shard), "checksums": checksums})}
        # The library's own file would have a name that does not tell whose it is.
        write_atomically(self.folder / shard.name, lambda file: file.write(save(tensors, metadata)))
        header = _read_header(self.folder / shard.name)
        assert header is not None, shard
        return header.digest

    def finish(self, digests: Mapping[str, str]) -> None:
        """Writes the manifest, given the digest of every shard by its name. By one process, after all."""
        manifest = replace(self.manifest, views=self.views, shards={s.name: digests[s.name] for s in self.shards})
        # A line for each key: there may be very many pictures.
        lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in vars(manifest).items())
        write_atomically(self.folder / MANIFEST, lambda file: file.write(f"{{\n{lines}\n}}\n".encode()))
