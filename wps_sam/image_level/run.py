"""A run: one folder in which every stage leaves files that a person can open, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from tqdm import tqdm

from ..masks import read_rgb
from ..outputs import write_output
from ..prompt_evaluation import load_encoder
from .objects import Region, whole
from .pictures import ALWAYS, Tagged, presence, tagged_pictures
from .seeds import Seeds, seed
from .settings import ImageLevelSettings
from .superpixels import Superpixel, superpixels
from .words import TASKS, Words, device, read_seed

logger = logging.getLogger(__name__)

KINDS = ("coarse", "fine")
# Settings that say which pictures a folder is of.
_DATA = ("descriptions", "dataset", "tags", "label_maps", "names", "images", "classes", "objects")


class Run:
    """The stages, in their order: :meth:`tags`, :meth:`masks`, :meth:`fit`, :meth:`cams`, :meth:`seeds`; the last three
    twice for FMA-WSSS's two steps.

    Args:
        folder: is made; settings.yaml in it says what it was last done with.
        settings: of the same pictures as the folder, if it is of any; what each stage was made with is checked there.
        words_from: another run's folder, whose learned words are used: to look at pictures that taught nothing.
        subset: only so many pictures are done.

    Raises:
        ValueError: the folder is of other pictures.
    """

    def __init__(
        self, folder: str | Path, settings: ImageLevelSettings, words_from: str | Path = "", subset: int = 0
    ) -> None:
        self.folder, self.settings = Path(folder), settings
        self.words_from = Path(words_from) if words_from else None
        self.subset = subset or None
        values = json.loads(json.dumps(asdict(settings)))
        path = self.folder / "settings.yaml"
        if path.is_file():
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
            changed = [name for name in _DATA if before.get(name) != values[name]]
            if changed:
                raise ValueError(f"{path}: this folder is of other pictures ({', '.join(changed)}); choose another")
        write_output(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())

    @cached_property
    def _data(self) -> tuple[list[Tagged], list[str]]:
        """As tags.json has them, once it is there: reading them off label maps takes minutes."""
        path = self.folder / "tags.json"
        if not path.is_file():
            return tagged_pictures(self.settings)
        content = json.loads(path.read_text(encoding="utf-8"))
        ids = {name: c for c, name in enumerate(content["classes"])}
        found = [
            Tagged(name, one["file"], tuple(ids[tag] for tag in one["tags"]), _region_of(one))
            for name, one in content["pictures"].items()
        ]
        return found, content["classes"]

    @property
    def pictures(self) -> list[Tagged]:
        return self._data[0][: self.subset]

    @property
    def classes(self) -> list[str]:
        return self._data[1]

    @cached_property
    def words(self) -> Words:
        return Words((self.words_from or self.folder) / "words", self.settings, self.classes)

    # -- stages

    def tags(self) -> None:
        """tags.json: the names of each picture, and how often each class is there. Pictures that can't be read are left
        out, each with its reason, so that no later stage stops at them."""
        listed, classes = self._data
        pictures = [picture for picture in tqdm(listed, desc="tags") if _is_readable(picture)]
        if len(pictures) < len(listed):
            logger.warning("%d of %d pictures can't be read and are left out", len(listed) - len(pictures), len(listed))
        self._data = pictures, classes
        shares = {name: round(float(share), 4) for name, share in zip(classes, presence(pictures, len(classes)))}
        of_tagged = presence([picture for picture in pictures if picture.tags], len(classes))
        always = [name for name, share in zip(classes, of_tagged) if share > ALWAYS]
        if always:
            logger.warning(
                "%s: in more than nine of ten tagged pictures; nothing can be learned of them from tags",
                ", ".join(always),
            )
        named = {
            p.name: {
                "file": p.file,
                "tags": [classes[c] for c in p.tags],
                **({"crop": list(p.region.box), "object_area": p.region.area} if p.region else {}),
            }
            for p in pictures
        }
        content = {"classes": classes, "present": shares, "pictures": named}
        write_output(self.folder / "tags.json", json.dumps(content, indent=1, ensure_ascii=False).encode())

    def masks(self) -> None:
        """masks/NAME.json: SAM's quasi-superpixels."""
        settings = self.settings
        encoder = load_encoder(settings.sam_arch, settings.sam_weights, str(device()))

        def of_picture(picture: Tagged) -> bytes:
            image, region = read_rgb(picture.file), picture.region
            if region is None:
                found = superpixels(encoder, image, settings.superpixels)
            else:
                of_crop = superpixels(encoder, region.cut(image), settings.superpixels, region.area)
                found = [one.pasted(region, image.shape[:2]) for one in of_crop]
            return json.dumps([one.to_json() for one in found]).encode()

        sam = [settings.sam_arch, settings.sam_weights, asdict(settings.superpixels)]
        self._each("masks", ".json", {"sam": sam}, of_picture)

    def fit(self, task: str, tune: bool = False) -> None:
        """words/TASK.safetensors: what is learned from "tags", from "seeds" (coarse ones), or of the "background"; with
        WeakTr SemPLeS's stages "match", "background" and "refine", in that order; ``tune``: see :meth:`Words.fit`."""
        if self.words_from:
            raise ValueError(f"words are those of {self.words_from}: fit there")
        self.words.fit(task, self.pictures, self.folder / "coarse", tune)

    def cams(self, task: str) -> None:
        """cams/TASK/NAME.npz: maps [T, h, w] of a picture's tags, of its crop where it has one, and their class ids."""
        network = self.words.network(task)
        settings = self.settings.maps_tags if task == "tags" else self.settings.maps_seeds

        def of_picture(picture: Tagged) -> bytes:
            tags = torch.tensor(picture.tags, dtype=torch.int64)
            maps = network.maps(picture.look(), tags, settings)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, maps=maps.float().numpy(), classes=tags.numpy())
            return buffer.getvalue()

        weights = [self.settings.weights, self.settings.semantic, self.settings.semantic_weights]
        look = [self.settings.network, weights, self.settings.side, asdict(settings)]
        about = {"words": self.words.hash_of(task), "look": look, "exemplars": dict(self.settings.exemplars)}
        self._each(f"cams/{task}", ".npz", about, of_picture)

    def seeds(self, kind: str) -> None:
        """KIND/NAME.png: the class of every pixel, background last; KIND/NAME.json: what each mask is, and how sure.
        KIND_empty.json: of each class in which share of pictures it is, and in how many of those no pixel of it is."""
        task = self.words_of(kind)
        power = getattr(self.settings.seeds, kind)
        background = len(self.classes)

        def of_picture(picture: Tagged) -> bytes:
            maps, classes = self.maps_of(picture, task)
            found = self.seeds_of(picture, maps, power)
            ids = np.append(classes, background)
            sure = zip(found.of_masks, found.scores)
            named = [{"mask": s, "class": int(ids[k]), "score": round(float(q), 5)} for s, (k, q) in enumerate(sure)]
            write_output(self.folder / kind / f"{picture.name}.json", json.dumps(named).encode(), durable=False)
            buffer = io.BytesIO()
            Image.fromarray(ids[found.labels].astype(np.uint16 if background > 255 else np.uint8)).save(buffer, "PNG")
            return buffer.getvalue()

        made_from = {"cams": self._made_from(f"cams/{task}"), "masks": self._made_from("masks"), "power": power}
        self._each(kind, ".png", made_from, of_picture)
        tagged, empty = np.zeros(background, dtype=int), np.zeros(background, dtype=int)
        for picture in self.pictures:
            shown = np.unique(read_seed(self.folder / kind / f"{picture.name}.png"))
            tagged[list(picture.tags)] += 1
            empty[[c for c in picture.tags if c not in shown]] += 1
        report = {
            name: {"present": round(t / max(len(self.pictures), 1), 4), "tagged": t, "empty": e}
            for name, t, e in zip(self.classes, tagged.tolist(), empty.tolist())
        }
        write_output(self.folder / f"{kind}_empty.json", json.dumps(report, indent=1, ensure_ascii=False).encode())

    def words_of(self, kind: str) -> str:
        """What was learned for the maps of "coarse" or "fine" seeds."""
        return TASKS[self.settings.network][KINDS.index(kind)]

    # -- what stages are made of

    def seeds_of(self, picture: Tagged, maps: torch.Tensor, power: float) -> Seeds:
        """What maps [T, h, w] of a picture make of its masks."""
        masks = self.masks_of(picture)
        height, width = read_rgb(picture.file).shape[:2]
        shapes = torch.from_numpy(np.stack([m.mask for m in masks])) if masks else torch.zeros(0, height, width) > 0
        levels = torch.tensor([self.settings.superpixels.rank(m.level) for m in masks], dtype=torch.int64)
        return seed(spread(picture, maps, height, width), shapes, levels, power)

    def masks_of(self, picture: Tagged) -> list[Superpixel]:
        """Of masks/NAME.json."""
        path = self.folder / "masks" / f"{picture.name}.json"
        if not path.is_file():
            raise ValueError(f"{path}: is missing; run the stage masks first")
        return [Superpixel.from_json(record) for record in json.loads(path.read_text(encoding="utf-8"))]

    def maps_of(self, picture: Tagged, task: str) -> tuple[torch.Tensor, np.ndarray]:
        """Of cams/TASK/NAME.npz: maps float [T, h, w], and the class ids [T] that they are of."""
        path = self.folder / "cams" / task / f"{picture.name}.npz"
        if not path.is_file():
            raise ValueError(f"{path}: is missing; run the stage cams with --words {task} first")
        with np.load(path) as stored:
            return torch.from_numpy(stored["maps"]), stored["classes"]

    # -- files

    def _each(self, stage: str, suffix: str, made_from: Mapping[str, Any], make: Callable[[Tagged], bytes]) -> None:
        """One file a picture; those that are there are left as they are, unless they were made otherwise."""
        folder = self.folder / stage
        about = folder / "made_from.json"
        text = json.dumps({"classes": self.classes, **made_from}, indent=1, ensure_ascii=False)
        if about.is_file() and about.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder}: was made with other settings, words, masks or maps; remove it first")
        write_output(about, text.encode())
        missing = [p for p in self.pictures if not (folder / f"{p.name}{suffix}").is_file()]
        for picture in tqdm(missing, desc=stage):
            write_output(folder / f"{picture.name}{suffix}", make(picture), durable=False)

    def _made_from(self, stage: str) -> str:
        path = self.folder / stage / "made_from.json"
        if not path.is_file():
            raise ValueError(f"{path.parent}: is missing; run the stage {stage.split('/')[0]} first")
        return hashlib.sha256(path.read_bytes()).hexdigest()


def spread(picture: Tagged, maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Maps [T, h, w] of what is looked at of a picture to [T, H, W] of all of it, 0 beside."""
    return (picture.region or whole(height, width)).enlarge(maps, (height, width))


def _region_of(picture: Mapping[str, Any]) -> Region | None:
    """Of a picture in tags.json."""
    return Region(tuple(picture["crop"]), picture["object_area"]) if "crop" in picture else None


def _is_readable(picture: Tagged) -> bool:
    try:
        read_rgb(picture.file)
    except ValueError as error:
        logger.warning("left out: %s", error)
        return False
    return True
