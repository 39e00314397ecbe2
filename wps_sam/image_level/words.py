"""What a run has learned, in its folder ``words``: of tags, of seeds, of what surrounds a class; and learning it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..encoders import SemanticEncoder
from ..encoders.clip import CLIP, build_clip
from ..encoders.prompt_bank import FixedTexts, PromptBank
from ..encoders.semantic import build_semantic_encoder
from ..masks import read_label_png, read_rgb
from ..outputs import write_output
from .fitting import Loss, background_loss, fit_words, seed_loss, tag_loss
from .networks import CLIPNetwork, GradCAMNetwork, ImageLevelNetwork, TagNetwork, fit_patches, fit_tags, patches_of
from .pictures import ALWAYS, Tagged, listed_names, presence, true_labels
from .scores import threshold_score
from .semples import BACKGROUND_PATTERN, WeakTrNetwork, fit_stage
from .settings import FitSettings, ImageLevelSettings
from .weaktr import WeakTr, build_weaktr

logger = logging.getLogger(__name__)

# What can be learned with each network; the first two are what coarse and fine seeds are grown from.
TASKS = {
    "clip": ("tags", "seeds", "background"),
    "tags": ("tags", "seeds"),
    "weaktr": ("match", "refine", "background"),
}
# Those of WeakTr's stages, of which the truth may choose an epoch.
SCORED = ("match", "refine")
# Words that say what surrounds a class.
NEAREST = 5
# The square in which a semantic network sees pictures, in pixels.
SQUARE = 512


class Words:
    """The folder, and the networks that what is in it makes.

    Args:
        folder: its files are TASK.safetensors, what was learned; TASK.csv, the losses; TASK.state while it is learned.
        settings, classes: of the run.
    """

    def __init__(self, folder: Path, settings: ImageLevelSettings, classes: Sequence[str]) -> None:
        self.folder, self.settings, self.classes = folder, settings, list(classes)
        unknown = sorted(set(settings.texts) - set(classes))
        if unknown:
            raise ValueError(f"texts: {unknown} are not among the classes {self.classes}")

    # -- learning

    def fit(self, task: str, pictures: Sequence[Tagged], seeds: Path, tune: bool = False) -> None:
        """TASK.safetensors, from the pictures that have any tags; ``seeds`` is the folder of the coarse ones.

        Args:
            tune: of WeakTr's maps not the last epoch is kept but the best on the truth, as published.

        Raises:
            ValueError: the network can't learn this, what it takes is missing, or it is there, of other pictures.
        """
        self.check_task(task)
        if tune and task not in SCORED:
            raise ValueError(f"the truth chooses epochs of {', '.join(SCORED)}, not of {task!r}")
        pictures = [picture for picture in pictures if picture.tags]
        path = self.folder / f"{task}.safetensors"
        about = {"classes": json.dumps(self.classes), "pictures": json.dumps(len(pictures))}
        if tune:
            about["tuned_on_the_truth"] = "true"
        if task == "tags" and self.settings.network == "clip":
            shares = presence(pictures, len(self.classes))
            about["always"] = json.dumps(np.flatnonzero(shares > ALWAYS).tolist())
        if path.is_file():
            found = self._about(task)
            if found != about:
                raise ValueError(
                    f"{path}: was learned from {found.get('pictures')} pictures, not {len(pictures)}, or its epoch "
                    "chosen otherwise; remove it"
                )
            logger.info("%s: is there", path)
            return
        state = self.folder / f"{task}.state"
        losses: list[float] = []
        if self.settings.network == "tags":
            learned = self._fit_tags(pictures) if task == "tags" else self._fit_patches(pictures, seeds)
        elif self.settings.network == "weaktr":
            learned, losses = self._fit_semples(task, pictures, state, tune)
        else:
            learned, losses = self._fit_words(task, pictures, seeds, state)
        if losses:
            lines = "".join(f"{i},{loss:.6g}\n" for i, loss in enumerate(losses))
            write_output(path.with_suffix(".csv"), f"number,loss\n{lines}".encode())
        write_output(path, save({name: value.cpu().contiguous() for name, value in learned.items()}, about))
        state.unlink(missing_ok=True)
        if task == "background":
            written = json.dumps(self.nearest_nouns(), indent=1, ensure_ascii=False)
            write_output(self.folder / "background_nouns.json", written.encode())

    def check_task(self, task: str) -> None:
        """ValueError unless the network of the settings can learn this."""
        known = TASKS[self.settings.network]
        if task not in known:
            raise ValueError(f"network {self.settings.network!r} has no words {task!r}; it learns {', '.join(known)}")

    def _fit_tags(self, pictures: Sequence[Tagged]) -> dict[str, Tensor]:
        network = TagNetwork(self._semantic)
        features = [network.view(p.look()).features[0].detach() for p in tqdm(pictures, desc="features")]
        present = torch.zeros(len(pictures), len(self.classes), dtype=torch.bool)
        for row, picture in zip(present, pictures):
            row[list(picture.tags)] = True
        weight, bias = fit_tags(torch.stack(features), present)
        return {"weight": weight, "bias": bias}

    def _fit_patches(self, pictures: Sequence[Tagged], seeds: Path) -> dict[str, Tensor]:
        """Of the coarse seeds: each patch is what most of its pixels are."""
        network, count = TagNetwork(self._semantic), len(self.classes)
        patches, labels = [], []
        for picture in tqdm(pictures, desc="patches"):
            view = network.view(picture.look())
            seed = picture.cut(read_seed(seeds / f"{picture.name}.png"))
            one_hot = F.one_hot(torch.from_numpy(seed), count + 1)
            shares = F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).float()[None], view.grid)[0].flatten(1)
            patches.append(patches_of(view)[0])
            labels.append(shares.argmax(0))
        weight, bias = fit_patches(torch.cat(patches), torch.cat(labels), count + 1)
        return {"weight": weight, "bias": bias}

    def _fit_words(
        self, task: str, pictures: Sequence[Tagged], seeds: Path, state: Path
    ) -> tuple[dict[str, Tensor], list[float]]:
        settings: FitSettings = getattr(self.settings, f"fit_{task}")
        loss: Loss
        if task == "background":
            tagged = self.network("tags")
            assert isinstance(tagged, CLIPNetwork)
            network, bank = tagged, self._surroundings(settings)
            loss = background_loss(self._labels(), bank, self.settings.semples.background_weight)
        else:
            bank = self._bank(settings)
            network = CLIPNetwork(self._clip, bank, len(self.classes), self.settings.side)
            loss = tag_loss if task == "tags" else self._seed_loss()
        reads_seeds = task == "seeds" and self.settings.activation > 0

        def example(i: int) -> tuple[np.ndarray, Sequence[int], np.ndarray | None]:
            one = pictures[i]
            label = one.cut(read_seed(seeds / f"{one.name}.png")) if reads_seeds else None
            return one.look(), one.tags, label

        with tqdm(total=settings.stop or settings.iterations, desc=task) as progress:
            losses = fit_words(
                network, bank, loss, example, len(pictures), settings, state, lambda _: progress.update()
            )
        return {"contexts": bank.contexts.detach()}, losses

    def _seed_loss(self) -> Loss:
        ours, semples = self.settings, self.settings.semples
        surroundings = self._surroundings(ours.fit_background, read=True) if ours.refine else None
        return seed_loss(ours.activation, ours.match, ours.refine, semples.match_weight, self._labels(), surroundings)

    def _fit_semples(
        self, stage: str, pictures: Sequence[Tagged], state: Path, tune: bool
    ) -> tuple[dict[str, Tensor], list[float]]:
        settings = self.settings.semples
        score = self._score_on_truth(pictures) if tune else None
        # The first and the last start from WeakTr; the words look at what the first has made of it.
        model = self._weaktr("match" if stage == "background" else "")
        bank = None if stage == "match" else self._semples_prompts(read=stage == "refine")

        def example(i: int) -> tuple[np.ndarray, Sequence[int]]:
            return pictures[i].look(), pictures[i].tags

        with tqdm(total=settings.epochs, desc=stage) as progress:
            losses = fit_stage(
                stage,
                model,
                self._clip,
                self._labels(),
                bank,
                example,
                len(pictures),
                settings,
                state,
                lambda _: progress.update(),
                score,
            )
        if stage == "background" and bank is not None:
            return {"contexts": bank.contexts.detach()}, losses
        return model.state_dict(), losses

    def _score_on_truth(self, pictures: Sequence[Tagged]) -> Callable[[WeakTr], float]:
        """As SemPLeS scores each epoch: at the pictures' own scale."""
        truth_of, listed = true_labels(self.settings), self.settings.semples.scored
        names = set(listed_names(listed)) if listed else {picture.name for picture in pictures}
        chosen = [picture for picture in pictures if picture.name in names]
        if not chosen:
            raise ValueError(f"{listed}: none of the run's pictures is in this list")

        def score(model: WeakTr) -> float:
            network = WeakTrNetwork(model, (1.0,))
            maps = (network.maps(p.look(), torch.tensor(p.tags)) for p in chosen)
            triples = ((found, np.array(p.tags), p.cut(truth_of(p.file))) for found, p in zip(maps, chosen))
            return threshold_score(triples, len(self.classes))

        return score

    def nearest_nouns(self) -> dict[str, dict[str, float]]:
        """Of each class the words, of the setting ``nouns``, whose texts are nearest to its learned surroundings, and
        their cosines."""
        path = self.settings.nouns
        try:
            nouns = Path(path).read_text(encoding="utf-8").split("\n") if path else self._texts
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"nouns: {path}: expected a text of one word a line: {error}") from error
        nouns = [noun.strip() for noun in nouns if noun.strip()]
        weaktr = self.settings.network == "weaktr"
        bank = self._semples_prompts(True) if weaktr else self._surroundings(self.settings.fit_background, read=True)
        with torch.no_grad():
            cosines = bank() @ FixedTexts(self._clip, self._sentences(nouns))().T
        best = cosines.topk(min(NEAREST, len(nouns)), dim=1)
        rows = zip(self.classes, best.indices.tolist(), best.values.tolist())
        return {name: {nouns[k]: round(v, 4) for k, v in zip(ids, values)} for name, ids, values in rows}

    # -- using it

    def network(self, task: str) -> ImageLevelNetwork:
        """What makes maps, by what was learned from ``task``; where nothing was from tags, CLIP by its texts alone."""
        self.check_task(task)
        if self.settings.network == "tags":
            learned = self._read(task)
            of_patches = task == "seeds"
            return self._with_exemplars(TagNetwork(self._semantic, learned["weight"], learned["bias"], of_patches))
        if self.settings.network == "weaktr":
            return WeakTrNetwork(self._weaktr(task), self.settings.semples.scales)
        if task == "tags" and not self.hash_of(task):
            texts: nn.Module = FixedTexts(self._clip, self._sentences(self._texts))
        else:
            bank = self._bank(self.settings.fit_tags if task == "tags" else self.settings.fit_seeds)
            bank.load_state_dict(self._read(task))
            # They stay as they are: encoded once, not for every picture.
            texts = FixedTexts.of(bank)
            always = json.loads(self._about(task).get("always", "[]"))
            # Of these MCL has taught nothing: a class that is never absent is against no other.
            texts.features[always] = self._labels()[always]
        used = self.settings.maps_tags if task == "tags" else self.settings.maps_seeds
        companion = TagNetwork(self._semantic) if used.affinity == "cosine" else None
        return self._with_exemplars(CLIPNetwork(self._clip, texts, len(self.classes), self.settings.side, companion))

    def hash_of(self, task: str) -> str:
        """SHA-256 of what was learned; "" if nothing was."""
        path = self.folder / f"{task}.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def _read(self, task: str) -> dict[str, Tensor]:
        path = self.folder / f"{task}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path}: is missing; run the stage fit with --words {task} first")
        classes = json.loads(self._about(task).get("classes", "[]"))
        if classes != self.classes:
            raise ValueError(f"{path}: was learned for the classes {classes}, not {self.classes}")
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    def _about(self, task: str) -> dict[str, str]:
        """What is said in the file of what was learned."""
        with safe_open(self.folder / f"{task}.safetensors", "pt") as file:
            return file.metadata() or {}

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
                size = list(image.shape[:2])
                raise ValueError(f"{files[1]}: expected a mask of {size} that is not empty, got {list(mask.shape)}")
            given[self.classes.index(name)] = (image, mask)
        network.remember(given)
        return network

    # -- what it is made of

    @property
    def _texts(self) -> list[str]:
        """Of all classes, then of all backgrounds."""
        return [*(self.settings.texts.get(name, name) for name in self.classes), *self.settings.backgrounds]

    def _sentences(self, names: Sequence[str]) -> list[str]:
        return [self.settings.template.format(name=name) for name in names]

    def _labels(self) -> Tensor:
        """Text features [C, E] of the classes."""
        return FixedTexts(self._clip, self._sentences(self._texts[: len(self.classes)]))()

    @cached_property
    def _clip(self) -> CLIP:
        return build_clip(self.settings.weights).to(device())

    @cached_property
    def _semantic(self) -> SemanticEncoder:
        return build_semantic_encoder(self.settings.semantic, self.settings.semantic_weights, 0, SQUARE)

    def _bank(self, settings: FitSettings) -> PromptBank:
        names = self._texts
        if not settings.named_backgrounds:
            names = [*names[: len(self.classes)], *[""] * len(self.settings.backgrounds)]
        return PromptBank(self._clip, names, settings.pattern, settings.shared, settings.deviation, settings.seed)

    def _surroundings(self, settings: FitSettings, read: bool = False) -> PromptBank:
        """A text for what surrounds each class."""
        bank = PromptBank(
            self._clip, [""] * len(self.classes), settings.pattern, settings.shared, settings.deviation, settings.seed
        )
        if read:
            bank.load_state_dict(self._read("background"))
            bank.requires_grad_(False)
        return bank

    def _semples_prompts(self, read: bool) -> PromptBank:
        seed = self.settings.semples.seed
        settings = FitSettings(pattern=BACKGROUND_PATTERN, shared=False, deviation=0.0, seed=seed)
        return self._surroundings(settings, read).requires_grad_(True)

    def _weaktr(self, stage: str) -> WeakTr:
        """As its checkpoint is, or as a stage has left it."""
        settings = self.settings.semples
        model = build_weaktr(len(self.classes), settings.checkpoint, settings.reduction, settings.pool, settings.unused)
        if stage:
            model.load_state_dict(self._read(stage))
        return model.to(device())


def read_seed(path: Path) -> np.ndarray:
    """int64 [H, W] of a seed's PNG."""
    if not path.is_file():
        raise ValueError(f"{path}: is missing; run the stage seeds first")
    return read_label_png(str(path))


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
