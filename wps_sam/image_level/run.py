"""A run: one folder in which every stage leaves files that a person can open, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..encoders.clip import CLIP, build_clip
from ..encoders.semantic import build_semantic_encoder
from ..masks import read_label_png, read_rgb
from ..outputs import write_output
from ..prompt_evaluation import load_encoder
from .cams import enlarge
from .fitting import Loss, background_loss, fit_words, seed_loss, tag_loss
from .networks import (
    CLIPNetwork,
    GradCAMNetwork,
    ImageLevelNetwork,
    TagNetwork,
    fit_patches,
    fit_tags,
    patches_of,
)
from .pictures import Tagged, tagged_pictures
from .prompt_bank import FixedTexts, PromptBank
from .seeds import Seeds, seed
from .semples import BACKGROUND_PATTERN, WeakTrNetwork, fit_stage
from .settings import FitSettings, ImageLevelSettings
from .superpixels import Superpixel, superpixels
from .weaktr import WeakTr, build_weaktr

logger = logging.getLogger(__name__)

# Seeds, and what was learned for the maps that they are grown from.
KINDS = ("coarse", "fine")
_WORDS = {"clip": ("tags", "seeds"), "tags": ("tags", "seeds"), "weaktr": ("match", "refine")}


class Run:
    """The stages, in their order: :meth:`tags`, :meth:`masks`, :meth:`fit`, :meth:`cams`, :meth:`seeds`; the last three
    twice for FMA-WSSS's two steps.

    Args:
        folder: is made; settings.yaml in it says what it was made with.
        settings: must be those of the folder, if it has any.
        words_from: another run's folder, whose learned words are used: to look at pictures that taught nothing.
        subset: only so many pictures are done.

    Raises:
        ValueError: the folder is another run's.
    """

    def __init__(
        self, folder: str | Path, settings: ImageLevelSettings, words_from: str | Path = "", subset: int = 0
    ) -> None:
        self.folder, self.settings = Path(folder), settings
        self.words_folder = Path(words_from or folder) / "words"
        self.subset = subset or None
        text = yaml.safe_dump(json.loads(json.dumps(asdict(settings))), sort_keys=False, allow_unicode=True)
        path = self.folder / "settings.yaml"
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path}: this folder is of a run with other settings; choose another, or remove it")
        write_output(path, text.encode())

    @cached_property
    def _data(self) -> tuple[list[Tagged], list[str]]:
        return tagged_pictures(self.settings)

    @property
    def pictures(self) -> list[Tagged]:
        return self._data[0][: self.subset]

    @property
    def classes(self) -> list[str]:
        return self._data[1]

    # -- stages

    def tags(self) -> None:
        """tags.json: the names of each picture, and how often each class is there."""
        present = np.zeros(len(self.classes), dtype=int)
        for picture in self.pictures:
            present[list(picture.tags)] += 1
        shares = {name: round(float(n) / max(len(self.pictures), 1), 4) for name, n in zip(self.classes, present)}
        always = [name for name, share in shares.items() if share > 0.9]
        if always:
            logger.warning(
                "%s: in more than nine of ten pictures; nothing can be learned of them from tags", ", ".join(always)
            )
        images = {p.file: [self.classes[c] for c in p.tags] for p in self.pictures}
        content = {"classes": self.classes, "present": shares, "images": images}
        write_output(self.folder / "tags.json", json.dumps(content, indent=1, ensure_ascii=False).encode())

    def masks(self) -> None:
        """masks/NAME.json: SAM's quasi-superpixels."""
        encoder = load_encoder(self.settings.sam_arch, self.settings.sam_weights, str(_device()))

        def of_picture(picture: Tagged) -> bytes:
            found = superpixels(encoder, read_rgb(picture.file), self.settings.superpixels)
            return json.dumps([one.to_json() for one in found]).encode()

        self._each("masks", ".json", {}, of_picture)

    def fit(self, task: str) -> None:
        """words/TASK.safetensors: what is learned from "tags", from "seeds" (coarse ones), or of the "background"; with
        WeakTr SemPLeS's stages "match", "background" and "refine", in that order."""
        path = self.words_folder / f"{task}.safetensors"
        if path.is_file():
            logger.info("%s: is there", path)
            return
        losses: list[float] = []
        if self.settings.network == "tags":
            if task not in ("tags", "seeds"):
                raise ValueError(f"network 'tags' learns from tags and from seeds, not from {task}")
            learned = self._fit_tag_network() if task == "tags" else self._fit_patches()
        elif self.settings.network == "weaktr":
            learned, losses = self._fit_semples(task)
        else:
            learned, losses = self._fit_words(task)
        if losses:
            lines = "".join(f"{i},{loss:.6g}\n" for i, loss in enumerate(losses))
            write_output(path.with_suffix(".csv"), f"iteration,loss\n{lines}".encode())
        write_output(path, save(learned, {"classes": json.dumps(self.classes)}))

    def cams(self, words: str) -> None:
        """cams/WORDS/NAME.npz: maps [T, h, w] of a picture's tags and their class ids."""
        network = self.network(words)
        settings = self.settings.maps_tags if words == "tags" else self.settings.maps_seeds

        def of_picture(picture: Tagged) -> bytes:
            tags = torch.tensor(picture.tags, dtype=torch.int64)
            maps = network.maps(read_rgb(picture.file), tags, settings)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, maps=maps.float().numpy(), classes=tags.numpy())
            return buffer.getvalue()

        self._each(f"cams/{words}", ".npz", {"words": self._words_hash(words)}, of_picture)

    def seeds(self, kind: str) -> None:
        """KIND/NAME.png: the class of every pixel, background last; KIND/NAME.json: what each mask is, and how sure."""
        words = self.words_of(kind)
        power = getattr(self.settings.seeds, kind)
        background = len(self.classes)
        empty = np.zeros(background, dtype=int)
        tagged = np.zeros(background, dtype=int)

        def of_picture(picture: Tagged) -> bytes:
            found, classes = self.seeds_of(picture, words, power)
            ids = np.append(classes, background)
            sure = zip(found.of_masks, found.scores)
            named = [{"mask": s, "class": int(ids[k]), "score": round(float(q), 5)} for s, (k, q) in enumerate(sure)]
            write_output(self.folder / kind / f"{picture.name}.json", json.dumps(named).encode(), durable=False)
            buffer = io.BytesIO()
            Image.fromarray(ids[found.labels].astype(np.uint16 if background > 255 else np.uint8)).save(buffer, "PNG")
            return buffer.getvalue()

        made_from = {"cams": self._made_from(f"cams/{words}"), "masks": self._made_from("masks")}
        self._each(kind, ".png", made_from, of_picture)
        for picture in self.pictures:
            shown = np.unique(read_seed(self.folder / kind / f"{picture.name}.png"))
            tagged[list(picture.tags)] += 1
            empty[[c for c in picture.tags if c not in shown]] += 1
        report = {name: {"tagged": int(t), "empty": int(e)} for name, t, e in zip(self.classes, tagged, empty)}
        write_output(self.folder / f"{kind}_empty.json", json.dumps(report, indent=1, ensure_ascii=False).encode())

    def words_of(self, kind: str) -> str:
        """What was learned for the maps of "coarse" or "fine" seeds."""
        return _WORDS[self.settings.network][KINDS.index(kind)]

    # -- what stages are made of

    def seeds_of(self, picture: Tagged, words: str, power: float) -> tuple[Seeds, np.ndarray]:
        """The seeds of one picture, and the class ids that its labels count."""
        masks = self.masks_of(picture)
        with np.load(self.folder / "cams" / words / f"{picture.name}.npz") as stored:
            maps, classes = torch.from_numpy(stored["maps"]), stored["classes"]
        height, width = read_rgb(picture.file).shape[:2]
        shapes = torch.from_numpy(np.stack([m.mask for m in masks])) if masks else torch.zeros(0, height, width) > 0
        levels = torch.tensor([self.settings.superpixels.rank(m.level) for m in masks], dtype=torch.int64)
        large = enlarge(maps, height, width) if len(maps) else maps.new_zeros(0, height, width)
        return seed(large, shapes, levels, power), classes

    def masks_of(self, picture: Tagged) -> list[Superpixel]:
        """Of masks/NAME.json."""
        path = self.folder / "masks" / f"{picture.name}.json"
        if not path.is_file():
            raise ValueError(f"{path}: is missing; run the stage masks first")
        return [Superpixel.from_json(record) for record in json.loads(path.read_text(encoding="utf-8"))]

    def network(self, words: str) -> ImageLevelNetwork:
        """What looks at pictures, with the words learned from ``words``, or with texts as they are if none were."""
        path = self.words_folder / f"{words}.safetensors"
        if self.settings.network == "tags":
            with safe_open(self._learned(words), "pt") as file:
                self._check_classes(file.metadata(), path)
                weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
            return self._with_exemplars(TagNetwork(self._semantic(), weight, bias, of_patches=words == "seeds"))
        if self.settings.network == "weaktr":
            return WeakTrNetwork(self._weaktr(words), self.settings.semples.scales)
        clip = self._clip
        texts: nn.Module = FixedTexts(clip, [self.settings.template.format(name=name) for name in self._texts])
        if path.is_file():
            texts = self._bank(self.settings.fit_tags if words == "tags" else self.settings.fit_seeds)
            with safe_open(path, "pt") as file:
                self._check_classes(file.metadata(), path)
                texts.load_state_dict({"contexts": file.get_tensor("contexts")})
        elif words != "tags":
            self._learned(words)
        return self._with_exemplars(CLIPNetwork(clip, texts.to(_device()), len(self.classes), self.settings.side))

    def _with_exemplars(self, network: GradCAMNetwork) -> GradCAMNetwork:
        unknown = [name for name in self.settings.exemplars if name not in self.classes]
        if unknown:
            raise ValueError(f"exemplars: {unknown} are not among the classes {self.classes}")
        given = {}
        for name, files in self.settings.exemplars.items():
            if len(files) != 2:
                raise ValueError(f"exemplars: {name}: expected a picture and a mask, got {list(files)}")
            image, mask = read_rgb(files[0]), read_label_png(files[1]) > 0
            if mask.shape != image.shape[:2] or not mask.any():
                raise ValueError(
                    f"{files[1]}: expected a mask of {image.shape[:2]} that is not empty, got {mask.shape}"
                )
            given[self.classes.index(name)] = (image, mask)
        network.remember(given)
        return network

    @property
    def _texts(self) -> list[str]:
        """Of all classes, then of all backgrounds."""
        return [*(self.settings.texts.get(name, name) for name in self.classes), *self.settings.backgrounds]

    @cached_property
    def _clip(self) -> CLIP:
        return build_clip(self.settings.weights).to(_device())

    def _semantic(self) -> Any:
        return build_semantic_encoder(self.settings.semantic, self.settings.weights, 0, SQUARE)

    def _bank(self, settings: FitSettings) -> PromptBank:
        names = self._texts
        if not settings.named_backgrounds:
            names = [*names[: len(self.classes)], *[""] * len(self.settings.backgrounds)]
        return PromptBank(self._clip, names, settings.pattern, settings.shared, settings.deviation, settings.seed).to(
            _device()
        )

    def _fit_tag_network(self) -> dict[str, Tensor]:
        network = TagNetwork(self._semantic())
        features = [network.view(read_rgb(p.file)).features[0].detach() for p in tqdm(self.pictures, desc="features")]
        present = torch.zeros(len(self.pictures), len(self.classes), dtype=torch.bool)
        for row, picture in zip(present, self.pictures):
            row[list(picture.tags)] = True
        weight, bias = fit_tags(torch.stack(features), present)
        return {"weight": weight.contiguous(), "bias": bias.contiguous()}

    def _fit_patches(self) -> dict[str, Tensor]:
        """Of the coarse seeds: each patch is what most of its pixels are."""
        network, count = TagNetwork(self._semantic()), len(self.classes)
        patches, labels = [], []
        for picture in tqdm(self.pictures, desc="patches"):
            view = network.view(read_rgb(picture.file))
            one_hot = F.one_hot(torch.from_numpy(read_seed(self.folder / "coarse" / f"{picture.name}.png")), count + 1)
            shares = F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).float()[None], view.grid)[0].flatten(1)
            patches.append(patches_of(view)[0])
            labels.append(shares.argmax(0))
        weight, bias = fit_patches(torch.cat(patches), torch.cat(labels), count + 1)
        return {"weight": weight.contiguous(), "bias": bias.contiguous()}

    def _fit_words(self, task: str) -> tuple[dict[str, Tensor], list[float]]:
        settings: FitSettings = getattr(self.settings, f"fit_{task}")
        clip, count = self._clip, len(self.classes)
        loss: Loss
        if task == "background":
            network = self.network("tags")
            assert isinstance(network, CLIPNetwork)
            bank = PromptBank(clip, [""] * count, settings.pattern, settings.shared, settings.deviation, settings.seed)
            labels = FixedTexts(clip, [self.settings.template.format(name=n) for n in self._texts[:count]])()
            loss = background_loss(labels, bank, self.settings.background_weight)
        else:
            bank = self._bank(settings)
            network = CLIPNetwork(clip, bank, count, self.settings.side)
            loss = tag_loss if task == "tags" else seed_loss(self._surroundings(), self.settings.refine)
        losses: list[float] = []
        progress = tqdm(total=settings.stop or settings.iterations, desc=f"fit {task}")

        def report(iteration: int, value: float) -> None:
            losses.append(value)
            progress.update()

        fit_words(network, bank, loss, self._example(with_seed=task == "seeds"), len(self.pictures), settings, report)
        return {"contexts": bank.contexts.detach().cpu().contiguous()}, losses

    def _fit_semples(self, stage: str) -> tuple[dict[str, Tensor], list[float]]:
        if stage not in ("match", "background", "refine"):
            raise ValueError(f"network 'weaktr' learns in the stages match, background and refine, not from {stage}")
        settings, names = self.settings.semples, self._texts[: len(self.classes)]
        labels = FixedTexts(self._clip, [self.settings.template.format(name=name) for name in names]).to(_device())()
        # The first and the last start from WeakTr; the words look at what the first has made of it.
        model = self._weaktr("match" if stage == "background" else "")
        bank = None if stage == "match" else self._semples_prompts(read=stage == "refine")
        losses: list[float] = []
        progress = tqdm(total=settings.epochs, desc=stage)

        def report(epoch: int, loss: float) -> None:
            losses.append(loss)
            progress.update()

        def example(i: int) -> tuple[np.ndarray, Sequence[int]]:
            return read_rgb(self.pictures[i].file), self.pictures[i].tags

        fit_stage(stage, model, self._clip, labels, bank, example, len(self.pictures), settings, report)
        if stage == "background" and bank is not None:
            return {"contexts": bank.contexts.detach().cpu().contiguous()}, losses
        return {name: value.cpu().contiguous() for name, value in model.state_dict().items()}, losses

    def _weaktr(self, stage: str) -> WeakTr:
        """As its checkpoint is, or as a stage has left it."""
        settings = self.settings.semples
        model = build_weaktr(len(self.classes), settings.checkpoint, settings.reduction, settings.pool)
        if stage:
            with safe_open(self._learned(stage), "pt") as file:
                model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
        return model.to(_device())

    def _semples_prompts(self, read: bool) -> PromptBank:
        count = len(self.classes)
        bank = PromptBank(
            self._clip, [""] * count, BACKGROUND_PATTERN, shared=False, deviation=0, seed=self.settings.semples.seed
        )
        if read:
            with safe_open(self._learned("background"), "pt") as file:
                bank.load_state_dict({"contexts": file.get_tensor("contexts")})
        return bank.to(_device())

    def _learned(self, task: str) -> Path:
        path = self.words_folder / f"{task}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path}: is missing; run the stage fit with --words {task} first")
        return path

    def _surroundings(self) -> PromptBank | None:
        """The learned backgrounds of the classes, if they are asked for."""
        if not self.settings.refine:
            return None
        settings = self.settings.fit_background
        bank = PromptBank(
            self._clip, [""] * len(self.classes), settings.pattern, settings.shared, settings.deviation, settings.seed
        )
        with safe_open(self._learned("background"), "pt") as file:
            bank.load_state_dict({"contexts": file.get_tensor("contexts")})
        return bank.to(_device()).requires_grad_(False)

    def _example(self, with_seed: bool) -> Callable[[int], tuple[np.ndarray, Sequence[int], np.ndarray | None]]:
        def read(i: int) -> tuple[np.ndarray, Sequence[int], np.ndarray | None]:
            picture = self.pictures[i]
            label = read_seed(self.folder / "coarse" / f"{picture.name}.png") if with_seed else None
            return read_rgb(picture.file), picture.tags, label

        return read

    # -- files

    def _each(self, stage: str, suffix: str, made_from: dict[str, str], make: Callable[[Tagged], bytes]) -> None:
        """One file a picture; those that are there are left as they are."""
        folder = self.folder / stage
        about = folder / "made_from.json"
        text = json.dumps({"classes": self.classes, **made_from}, indent=1, ensure_ascii=False)
        if about.is_file() and about.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder}: was made from other words, masks or maps than are here now; remove it first")
        write_output(about, text.encode())
        missing = [p for p in self.pictures if not (folder / f"{p.name}{suffix}").is_file()]
        for picture in tqdm(missing, desc=stage):
            write_output(folder / f"{picture.name}{suffix}", make(picture), durable=False)

    def _words_hash(self, words: str) -> str:
        path = self.words_folder / f"{words}.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def _made_from(self, stage: str) -> str:
        path = self.folder / stage / "made_from.json"
        if not path.is_file():
            raise ValueError(f"{path.parent}: is missing; run the stage {stage.split('/')[0]} first")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _check_classes(self, metadata: dict[str, str] | None, path: Path) -> None:
        classes = json.loads((metadata or {}).get("classes", "[]"))
        if classes != self.classes:
            raise ValueError(f"{path}: was learned for the classes {classes}, not {self.classes}")


# The square in which a semantic network sees pictures, in pixels.
SQUARE = 512


def read_seed(path: Path) -> np.ndarray:
    """int64 [H, W] of a seed's PNG."""
    if not path.is_file():
        raise ValueError(f"{path}: is missing; run the stage seeds first")
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
