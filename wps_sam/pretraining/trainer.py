"""The training of a SAM: settings, prompts in rounds, a teacher, validation and export."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from wps_sam.encoders import SAMEncoder
from wps_sam.encoders.build_sam import PATCH_SIZE, SAM_ARCHS, build_sam, get_arch
from wps_sam.outputs import write_output
from wps_sam.paths import find_file
from wps_sam.prompt_evaluation import (
    VALIDATION_SEEDS,
    dataset_pictures,
    records_with_pieces,
    score_prompts,
    synthetic_pictures,
)
from wps_sam.prompters.semantic_input import resample

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import Dataset

from .loop import LoopSettings, TimedTraining, endless_batches
from .losses import prompt_losses
from .pictures import CollageSource, DatasetSource, Source, SyntheticSource
from .promptable import decode_masks, encode_views, init_weights, load_weights, take_decoder, window_of
from .views import Batch, Example, PromptKind, collate, draw_prompts, draw_view, pad_normalised

logger = logging.getLogger(__name__)

# Of wps_sam.prompt_evaluation.KINDS.
VALIDATION_KINDS = ("filled_box", "box", "point_best_of_3")


@dataclass(frozen=True)
class PretrainSettings(LoopSettings):
    """What defines the training of a SAM."""

    batch_size: int = 8
    arch: str = "vit_tiny"
    # Weights to start from, of the same layers and any input size; "": random ones.
    weights: str = ""
    # Registered data sets and their weights; "synthetic" is the generator, "collage" pastes cutouts of the others.
    sources: tuple[tuple[str, float], ...] = (("synthetic", 1.0),)
    # Generated pictures: how many different ones, and the range of their sides.
    synthetic_count: int = 3000
    synthetic_sizes: tuple[int, int] = (256, 512)
    # Side of the windows of SAM's square that training looks at; 0: the whole square.
    crop_size: int = 0
    # How much larger than the square a picture's longer side is made, drawn on a log scale.
    scale_range: tuple[float, float] = (0.5, 1.35)
    prompts_per_image: int = 7
    # Shares of prompts by a box, a point, and both.
    prompt_shares: tuple[float, float, float] = (0.6, 0.3, 0.1)
    # Rounds in which a share of the prompts is asked again, with the last mask and a click on its error.
    correction_rounds: int = 1
    correction_share: float = 0.3
    # Side of the square the losses are computed on.
    loss_size: int = 128
    # A SAM whose image embeddings are learned, too, by its arch and weights; "": none. It looks at every view.
    teacher: str = ""
    teacher_weights: str = ""
    # Factors of the loss on masks and, with a teacher, of that on embeddings. No loss on masks is MobileSAM's decoupled
    # distillation (arXiv 2306.14289, section 3.2): prompt encoder and mask decoder are the teacher's, and stay so.
    mask_loss: float = 1.0
    embedding_loss: float = 1.0
    val_dataset: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require = self.require
        weighted = bool(self.sources) and all(weight > 0 for _, weight in self.sources)
        require(weighted, "sources", "at least one, with positive weights")
        names = {name for name, _ in self.sources}
        require(names != {"collage"}, "sources", "another source that a collage is made of")
        shares = self.prompt_shares
        require(len(shares) == 3 and min(shares) >= 0 < sum(shares), "prompt_shares", "three shares >= 0")
        require(0 <= self.correction_share <= 1, "correction_share", "0..1")
        count = self.synthetic_count
        require(0 < count < VALIDATION_SEEDS, "synthetic_count", "1 or more, and none of validation's pictures")
        low, high = self.scale_range
        require(0 < low <= high, "scale_range", "0 < low <= high")
        require(self.crop_size >= 0 and self.crop_size % PATCH_SIZE == 0, "crop_size", f"a multiple of {PATCH_SIZE}")
        require(not self.teacher or self.teacher in SAM_ARCHS, "teacher", f"one of {', '.join(SAM_ARCHS)}")
        require(not self.teacher or self.crop_size == 0, "crop_size", "0 with a teacher, which sees the whole square")
        require(self.mask_loss >= 0, "mask_loss", "0 or more")
        require(self.mask_loss > 0 or bool(self.teacher), "mask_loss", "more than 0 without a teacher")
        require(self.embedding_loss > 0, "embedding_loss", "more than 0")


class _TrainingViews(Dataset):
    """Item i depends on the seed and i alone: workers, order and resuming change nothing."""

    def __init__(self, settings: PretrainSettings, image_size: int) -> None:
        self.settings, self.image_size = settings, image_size
        self.crop_size = settings.crop_size or image_size
        plain: dict[str, Source] = {}
        for name, _ in settings.sources:
            if name == "synthetic":
                plain[name] = SyntheticSource(settings.synthetic_sizes, settings.synthetic_count)
            elif name != "collage":
                plain[name] = DatasetSource(name)
        self.sources = [
            plain[name] if name in plain else CollageSource(list(plain.values())) for name, _ in settings.sources
        ]
        weights = np.array([weight for _, weight in settings.sources])
        self.shares = weights / weights.sum()

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng([self.settings.seed, index])
        settings = self.settings
        while True:
            source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
            pieces, origin = draw_view(source.sample(rng), self.image_size, self.crop_size, settings.scale_range, rng)
            prompts = draw_prompts(
                pieces.piece_map, pieces.objects, settings.prompts_per_image, settings.prompt_shares, rng
            )
            # A window may have hit nothing but slivers.
            if len(prompts.masks):
                return Example(pad_normalised(pieces.image, self.crop_size), origin, prompts)


class _Question(NamedTuple):
    """Prompts of one form: ``rows`` int64 [n] of the batch; ``points`` [n, k, 2] and ``labels`` [n, k], k may be 0;
    ``boxes`` [n, 4] or None; ``masks``: logits [n, 1, E, E] of the answer that is to be corrected, or None."""

    rows: Tensor
    points: Tensor
    labels: Tensor
    boxes: Tensor | None
    masks: Tensor | None = None


def first_questions(batch: Batch) -> list[_Question]:
    """The prompts of a batch, a question for each kind that occurs in it."""
    questions = []
    for kind in PromptKind:
        rows = (batch.kinds == kind).nonzero()[:, 0]
        if len(rows):
            clicks = 0 if kind == PromptKind.BOX else 1
            points = batch.points[rows, None][:, :clicks]
            boxes = None if kind == PromptKind.POINT else batch.boxes[rows]
            questions.append(_Question(rows, points, points.new_ones(points.shape[:2]), boxes))
    return questions


def next_clicks(logits: Tensor, targets: Tensor, view_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A click on a random pixel where each mask is wrong; anywhere on the target where it is perfect.

    Args:
        logits: [n, L, L].
        targets: [n, L, L], the covered share of each cell.
        view_size: pixels along a side.
        generator: on the CPU.

    Returns:
        points [n, 2] xy in pixels, labels [n]: 1 to add, 0 to take away.
    """
    wanted = (targets > 0.5).flatten(1)
    wrong = (logits > 0).flatten(1) != wanted
    weights = wrong.float() + 1e-6 * wanted + 1e-12
    cell = torch.multinomial(weights.cpu(), 1, generator=generator)[:, 0].to(logits.device)
    side = targets.shape[-1]
    xy = torch.stack([cell % side, cell // side], dim=1)
    points = (xy + 0.5) * (view_size / side) - 0.5
    return points, wanted.gather(1, cell[:, None])[:, 0].float()


class Pretrainer(TimedTraining):
    """Trains a SAM. Everything random follows from the seed and the iteration."""

    def __init__(self, settings: PretrainSettings, output_dir: str, command: str = "") -> None:
        self.sam = build_sam(settings.arch)
        self.size = int(self.sam.image_encoder.img_size)
        if settings.crop_size > self.size:
            raise ValueError(f"crop_size: {settings.arch} sees {self.size} pixels, got {settings.crop_size}")
        if settings.weights:
            load_weights(self.sam, find_file(settings.weights), settings.arch)
        else:
            init_weights(self.sam, settings.seed)
        teacher = build_sam(settings.teacher, settings.teacher_weights) if settings.teacher else None
        if teacher is not None and not settings.mask_loss:
            if get_arch(settings.teacher).decoder_mlp_dim != get_arch(settings.arch).decoder_mlp_dim:
                raise ValueError(
                    f"mask_loss: expected more than 0: a {settings.arch} can't take the mask decoder of a "
                    f"{settings.teacher}, whose layers are of other sizes"
                )
            take_decoder(teacher, self.sam)
        super().__init__(settings, self.sam, output_dir, command)
        self.settings: PretrainSettings = settings
        self.inputs = [path for path in (settings.weights, settings.teacher_weights) if Path(path).is_file()]
        precision = "bf16" if settings.bf16 else "fp32"
        self.teacher = None if teacher is None else SAMEncoder.from_sam(teacher, precision).to(self.device)

    @property
    def export_path(self) -> Path:
        return self.output_dir / "sam.safetensors"

    def undecayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Norms, biases and embeddings of positions, as usual for transformers."""
        embeddings = ("pos_embed", "rel_pos", "attention_biases", "_token", "_embed.weight", "point_embeddings")
        return parameter.ndim < 2 or any(part in name for part in embeddings)

    def batches(self) -> Iterator[Batch]:
        if self.settings.val_dataset:
            # What is wrong with it is not to be told at the first validation, half an hour on.
            records_with_pieces(self.settings.val_dataset)
        collated = functools.partial(collate, loss_size=self.settings.loss_size)
        return endless_batches(_TrainingViews(self.settings, self.size), self.settings, self.iteration, collated)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss on masks and that on embeddings, as far as the settings ask for them."""
        batch = Batch(*(t.to(self.device) for t in batch))
        settings = self.settings
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            embeddings = encode_views(self.sam.image_encoder, batch.images, batch.origins)
        losses: list[Tensor] = []
        figures: dict[str, float] = {}
        if settings.mask_loss:
            loss, figures = self._mask_loss(batch, embeddings)
            losses.append(settings.mask_loss * loss)
        if self.teacher is not None:
            loss = nn.functional.mse_loss(embeddings.float(), self._taught(batch.images, embeddings.shape[-1]))
            losses.append(settings.embedding_loss * loss)
            figures["embedding"] = float(loss.detach())
        total = torch.stack(losses).sum()
        return total, {"loss": float(total.detach()), **figures}

    @torch.no_grad()
    def _taught(self, images: Tensor, cells: int) -> Tensor:
        """The teacher's embeddings of normalised views [B, 3, S, S] on the student's grid, [B, 256, cells, cells].

        Padding counts: the decoder sees it, too.
        """
        assert self.teacher is not None
        size = (self.teacher.image_size, self.teacher.image_size)
        if images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return resample(self.teacher.encode(images)["image_embedding"], cells)

    def _mask_loss(self, batch: Batch, embeddings: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The mean over all questions of their losses: the batch's prompts, then rounds of corrections of some."""
        settings, sam = self.settings, self.sam
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.iteration)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16)
        # Positions are embedded in float32: bfloat16 would move a box's side by up to a pixel.
        positions = window_of(sam.prompt_encoder.get_dense_pe(), batch.origins, embeddings.shape[-1])
        positions = positions.expand(len(embeddings), -1, -1, -1)
        losses, figures = [], dict[str, list[Tensor]]()
        for question in first_questions(batch):
            for round_ in range(1 + settings.correction_rounds):
                images = batch.image_index[question.rows]
                sparse, dense = self._embed(question, batch.origins[images])
                with autocast:
                    logits, iou = decode_masks(sam, embeddings[images], sparse, dense, positions[images])
                ambiguous = question.boxes is None and question.points.shape[1] == 1
                result = prompt_losses(
                    logits,
                    iou,
                    batch.targets[question.rows],
                    torch.full_like(batch.is_part[question.rows], ambiguous),
                    batch.is_part[question.rows],
                )
                losses.append(result.loss)
                name = "correction" if round_ else "point" if ambiguous else "box"
                figures.setdefault(f"{name}_iou", []).append(result.best_iou if ambiguous else result.iou)
                if name == "box":
                    figures.setdefault("focal", []).append(result.focal)
                    figures.setdefault("dice", []).append(result.dice)
                if round_ == settings.correction_rounds:
                    break
                again = torch.rand(len(images), generator=generator) < settings.correction_share
                if not again.any():
                    break
                question = self._correct(
                    question, again.to(self.device), logits.detach(), iou.detach(), ambiguous, batch, generator
                )
        return torch.cat(losses).mean(), {name: float(torch.cat(values).mean()) for name, values in figures.items()}

    def _embed(self, question: _Question, origins: Tensor) -> tuple[Tensor, Tensor]:
        """Sparse [n, T, 256] and dense [n or 1, 256, h or 1, w or 1] prompt embeddings; prompts move to the square."""
        encoder = self.sam.prompt_encoder
        points = (question.points + origins[:, None], question.labels) if question.points.shape[1] else None
        boxes = None if question.boxes is None else question.boxes + origins.repeat(1, 2)
        sparse = encoder(points=points, boxes=boxes, masks=None)[0]
        if question.masks is None:
            return sparse, encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return sparse, encoder.mask_downscaling(question.masks)

    def _correct(
        self,
        question: _Question,
        again: Tensor,
        logits: Tensor,
        predicted_iou: Tensor,
        ambiguous: bool,
        batch: Batch,
        generator: torch.Generator,
    ) -> _Question:
        """Some of the prompts asked again, with the mask that SAM would have chosen and a click on its error."""
        rows = question.rows[again]
        chosen = 1 + predicted_iou[:, 1:].argmax(dim=1) if ambiguous else torch.zeros_like(question.rows)
        masks = logits[torch.arange(len(logits), device=logits.device), chosen][again][:, None].float()
        side = batch.targets.shape[-1]
        fine = nn.functional.interpolate(masks, (side, side), mode="bilinear", align_corners=False)[:, 0]
        points, labels = next_clicks(fine, batch.targets[rows], batch.images.shape[-1], generator)
        return _Question(
            rows,
            torch.cat([question.points[again], points[:, None]], dim=1),
            torch.cat([question.labels[again], labels[:, None]], dim=1),
            None if question.boxes is None else question.boxes[again],
            masks,
        )

    def validate(self, whole: bool = False) -> dict[str, float]:
        """Mean IoU of the averaged weights for true boxes and points, on generated pictures and ``val_dataset``.

        Args:
            whole: all pictures of ``val_dataset`` instead of the first ``val_pictures``.
        """
        figures: dict[str, float] = {}
        bf16 = self.settings.bf16
        encoder = SAMEncoder.from_sam(self.average.module, precision="bf16" if bf16 else "fp32").to(self.device)
        limit, name = self.settings.val_pictures, self.settings.val_dataset
        sets = {"synthetic": synthetic_pictures(limit, self.size)}
        if name:
            sets[name] = dataset_pictures(name, None if whole else limit)
        for name, pictures in sets.items():
            scores = score_prompts(encoder, pictures, VALIDATION_KINDS, bf16=bf16)
            figures |= {f"{name}/{kind}": iou for kind, iou in scores.mean().items()}
        return figures

    def export(self, **figures: str) -> None:
        """Writes the averaged weights in half precision, under the key names of ``segment_anything``'s Sam."""
        tensors = {
            key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
            for key, value in self.average.module.state_dict().items()
        }
        about = {
            **self.about(),
            "arch": self.settings.arch,
            "data": ", ".join(f"{name} ({weight:g})" for name, weight in self.settings.sources),
            **figures,
        }
        write_output(self.export_path, save(tensors, metadata={k: str(v) for k, v in about.items()}))
        logger.info("exported %s", self.export_path)
