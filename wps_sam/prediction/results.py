"""What a run over many pictures leaves behind: drawings, JSON, label pictures and cut-out parts, written one by one."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..mirror import Mirror
from ..outputs import check_outputs, stream_output, write_output
from ..visualization import part_colors
from .parts import PartPrediction
from .sources import Source

KINDS = ("overlay", "json", "labels", "cutouts")
COCO_FILE = "all_parts.coco.json"
CLASSES_FILE = "classes.csv"
SETTINGS_FILE = "predicted_by.json"
_OF_RUN = (("labels", CLASSES_FILE), ("json", COCO_FILE))

# Takes one frame of a video: its number, and what was found in it.
TakeFrame = Callable[[int, PartPrediction], None]


def keep_settings(folder: Path, settings: Mapping[str, Any], resume: bool) -> Path:
    """Notes in SETTINGS_FILE what the results in a folder follow from, so that none of others come beside them.

    Args:
        folder: of the results.
        settings: by name, ready for JSON.
        resume: whether results are there already that are to stay.

    Returns:
        The file.

    Raises:
        ValueError: those that are there follow from others; names them.
    """
    path, new = folder / SETTINGS_FILE, json.loads(json.dumps(settings))
    if resume and path.is_file():
        try:
            old = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not a file of wps-sam predict ({error}); choose another --output") from error
        others = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if others:
            found = ", ".join(f"{key} {json.dumps(old.get(key))}, and now {json.dumps(new.get(key))}" for key in others)
            raise ValueError(f"--resume: {path} says that what is there was made with {found}; choose another --output")
    write_output(path, json.dumps(new, indent=1, sort_keys=True).encode() + b"\n")
    return path


class Results(AbstractContextManager["Results"]):
    """The files of one run in one folder. Used in a ``with``, at whose end the COCO file of the run is there.

    Of a picture, by kind:

    - overlay: PLACE.png, the picture beside its part map;
    - json: PLACE.json, :meth:`PartPrediction.to_dict`;
    - labels: PLACE.labels.png, the class of each pixel, with a palette, so that viewers show the colours of the
      drawings; background is 255, or 65535 where there are more than 255 classes and the file has 16 bits, and no
      palette. Beside them, for the whole run, CLASSES_FILE: index and name of each class, and of the background;
    - cutouts: PLACE.cutouts/NUMBER_NAME.png, every part alone, RGB and alpha.

    Of a video PLACE.mp4, its frames painted, and PLACE.jsonl, a line a frame, which also has its number, ``frame``; the
    other two are written for each frame, in the folder PLACE. And with json, for the whole run, COCO_FILE: images,
    categories (class c has the id c + 1) and annotations with masks and scores, in COCO's form. Of a picture and of a
    video the JSON is written last.

    Args:
        folder: in which all files are written.
        kinds: of KINDS, what is to be written.
        class_names: of the model.
        of_run: whether the files for the whole run are written, too; a share of one leaves them out.
        mirror: a copy of the folder, into which files are taken as they are finished.

    Raises:
        ValueError: a file is in the way, see :func:`wps_sam.outputs.check_outputs`.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Collection[str],
        class_names: tuple[str, ...],
        of_run: bool = True,
        mirror: Mirror | None = None,
    ) -> None:
        self._folder = folder
        self._kinds = kinds
        self._files_of_run = [folder / name for kind, name in _OF_RUN if kind in kinds and of_run]
        self._mirror = mirror
        self._class_names = class_names
        self._opened = ExitStack()
        self._coco: _CocoFile | None = None

    def __enter__(self) -> Results:
        check_outputs(self._files_of_run)
        if self._folder / CLASSES_FILE in self._files_of_run:
            write_output(self._folder / CLASSES_FILE, self._list_classes())
        if self._folder / COCO_FILE in self._files_of_run:
            file = self._opened.enter_context(_streamed(self._folder / COCO_FILE))
            self._coco = self._opened.enter_context(_CocoFile(file, self._class_names))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)
        if error is None:
            self._publish(self._files_of_run)

    @staticmethod
    def targets(folder: Path, kinds: Collection[str], source: Source) -> list[Path]:
        """The files of a source that are known before it is opened."""
        suffixes = {"overlay": (".png", ".mp4"), "json": (".json", ".jsonl"), "labels": (".labels.png", None)}
        chosen = [suffixes[kind][source.moves] for kind in KINDS if kind in kinds and kind in suffixes]
        return [Path(f"{folder / source.place}{suffix}") for suffix in chosen if suffix]

    @staticmethod
    def are_there(folder: Path, kinds: Collection[str], source: Source) -> bool:
        """Whether an earlier run has written all of a source: its :meth:`targets`, if there are any."""
        targets = Results.targets(folder, kinds, source)
        return bool(targets) and all(path.is_file() for path in targets)

    def write(self, source: Source, parts: PartPrediction) -> None:
        """Writes what was found in a picture."""
        base = str(self._folder / source.place)
        written = self._write_pixels(base, parts)
        if "overlay" in self._kinds:
            written.append(_write_png(f"{base}.png", parts.draw()))
        if "json" in self._kinds:
            write_output(f"{base}.json", self._describe(parts))
            written.append(Path(f"{base}.json"))
        self._publish(written)

    def keep(self, source: Source) -> None:
        """Takes what :meth:`are_there` into the files for the whole run.

        Raises:
            ValueError: names the file, which is none of an earlier run.
        """
        if self._coco is None:
            return
        path = Path(f"{self._folder / source.place}.json{'l' if source.moves else ''}")
        try:
            # Numbers come back from JSON as they were, so that the file of the run does, too.
            for line in path.read_bytes().splitlines():
                self._coco.add(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a result of wps-sam predict ({error!r}); delete it") from error

    @contextmanager
    def video(self, source: Source, rate: float) -> Iterator[TakeFrame]:
        """Takes the frames of a video of ``rate`` frames a second one by one; at the end its files are there."""
        base, written = self._folder / source.place, []
        with ExitStack() as opened:
            # The first to be opened is the last to be there.
            lines = opened.enter_context(_streamed(Path(f"{base}.jsonl"))) if "json" in self._kinds else None
            film = opened.enter_context(_film(Path(f"{base}.mp4"), rate)) if "overlay" in self._kinds else None

            def take(number: int, parts: PartPrediction) -> None:
                if film is not None:
                    film(parts.paint())
                if lines is not None:
                    lines.write(self._describe(parts, frame=number) + b"\n")
                written.extend(self._write_pixels(str(base / f"frame_{number:06d}"), parts))

            yield take
        self._publish([*written, *self.targets(self._folder, self._kinds, source)])

    def _publish(self, paths: Sequence[Path]) -> None:
        if self._mirror:
            for path in paths:
                self._mirror.publish(path)

    def _write_pixels(self, base: str, parts: PartPrediction) -> list[Path]:
        """The files that were written."""
        written = []
        if "labels" in self._kinds:
            labels = parts.part_map.astype(self._label_type)
            labels[parts.part_map == len(self._class_names)] = np.iinfo(self._label_type).max
            palette = self._palette if labels.dtype == np.uint8 else None
            written.append(_write_png(f"{base}.labels.png", labels, palette))
        if "cutouts" in self._kinds:
            for k, name in enumerate(parts.names):
                fit_for_files = re.sub(r"[^\w-]+", "_", name)
                written.append(_write_png(f"{base}.cutouts/{k}_{fit_for_files}.png", parts.cutout(k)))
        return written

    @property
    def _label_type(self) -> type[np.unsignedinteger]:
        return np.uint8 if len(self._class_names) <= 255 else np.uint16

    @cached_property
    def _palette(self) -> bytes:
        """R, G, B of the 256 values of a label picture; those that are no class are black."""
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(self._class_names)] = part_colors(self._class_names)
        return colors.tobytes()

    def _list_classes(self) -> bytes:
        text = io.StringIO()
        rows = [*enumerate(self._class_names), (np.iinfo(self._label_type).max, "background")]
        csv.writer(text, lineterminator="\n").writerows([("index", "name"), *rows])
        return text.getvalue().encode()

    def _describe(self, parts: PartPrediction, **frame: int) -> bytes:
        """The JSON of one picture, which also goes into the COCO file: masks are encoded once for both."""
        described = {**frame, **parts.to_dict()}
        if self._coco is not None:
            self._coco.add(described)
        return json.dumps(described).encode()


class _CocoFile(AbstractContextManager["_CocoFile"]):
    """Results in COCO's form, written as they come; what is remembered of a picture is its line among the images."""

    def __init__(self, file: BinaryIO, class_names: tuple[str, ...]) -> None:
        self._file = file
        self._images: list[bytes] = []
        self._annotations = 0
        categories = [{"id": c + 1, "name": name} for c, name in enumerate(class_names)]
        self._category_ids = {category["name"]: category["id"] for category in categories}
        file.write(b'{"categories": ' + json.dumps(categories).encode() + b',\n"annotations": [')

    def add(self, described: dict[str, Any]) -> None:
        image = {"id": len(self._images) + 1, **{key: v for key, v in described.items() if key != "parts"}}
        self._images.append(json.dumps(image).encode())
        for part in described["parts"]:
            x0, y0, x1, y1 = part["box"]
            annotation = {
                "id": self._annotations + 1,
                "image_id": image["id"],
                "category_id": self._category_ids[part["name"]],
                "segmentation": part["mask"],
                "area": int(coco_mask.area(part["mask"])),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
                "score": part["score"],
            }
            self._file.write((b",\n" if self._annotations else b"\n") + json.dumps(annotation).encode())
            self._annotations += 1

    def __exit__(self, *error: object) -> None:
        self._file.write(b'],\n"images": [\n' + b",\n".join(self._images) + b"]}\n")


@contextmanager
def _streamed(path: Path) -> Iterator[BinaryIO]:
    with stream_output(path) as unfinished, open(unfinished, "wb") as file:
        yield file


@contextmanager
def _film(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Takes pictures uint8 [H, W, 3] RGB of one size for a video of ``rate`` pictures a second."""
    writer = None
    with stream_output(path) as unfinished:

        def take(picture: np.ndarray) -> None:
            nonlocal writer
            # The codec halves the resolution of colours: sides must be even.
            height, width = (side // 2 * 2 for side in picture.shape[:2])
            if writer is None:
                writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
            writer.write(cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR))

        try:
            yield take
        finally:
            if writer is not None:
                writer.release()
        if writer is None or not unfinished.is_file():
            raise ValueError(f"{path}: no frame came that could be written")


def _write_png(path: str, pixels: np.ndarray, palette: bytes | None = None) -> Path:
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    write_output(path, partial(image.save, format="PNG"), durable=False)
    return Path(path)
