"""A small network that learns to see what a large one sees, on pictures that nobody has labelled.

Feature distillation (FitNets, arXiv 1412.6550) at several stages: every map of the student, projected, is compared with
the teacher's map of the same place, normalised as :class:`wps_sam.encoders.SemanticEncoder` gives it to a prompter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.checkpoint_conversion import write_timm
from wps_sam.encoders.semantic import normalised
from wps_sam.encoders.semantic_networks import TimmNetwork, read_network, timm_features
from wps_sam.masks import read_rgb
from wps_sam.picture_files import pictures_of
from wps_sam.prompters.semantic_input import resample

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from .loop import LoopSettings, TimedTraining, endless_batches

logger = logging.getLogger(__name__)

# Every so many pictures one is kept for validation.
_VALIDATION_STEP = 50


@dataclass(frozen=True)
class DistillSettings(LoopSettings):
    """What defines a distillation."""

    # The teacher, as MODEL.SEMANTIC.NAME and WEIGHTS.
    teacher: str = "timm"
    teacher_weights: str = ""
    # An architecture of timm.
    student: str = "mobilenetv4_conv_small"
    # What differs from that architecture, by timm's names.
    student_args: tuple[tuple[str, Any], ...] = ()
    # Start from the teacher's weights, as far as names and shapes agree: a teacher that is cut smaller.
    cut_from_teacher: bool = False
    # Folders of pictures.
    pictures: tuple[str, ...] = ("pictures",)
    # Side of the windows that the student sees, of pictures whose longer side is ``picture_size``, times what is drawn
    # from ``scale_range``.
    crop_size: int = 224
    picture_size: int = 512
    scale_range: tuple[float, float] = (0.6, 1.4)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.crop_size > 0 and self.crop_size % 32 == 0, "crop_size", "a multiple of 32")
        low, high = self.scale_range
        self.require(0 < low <= high, "scale_range", "0 < low <= high")


class _Windows(Dataset):
    """Item i, uint8 RGB [3, s, s] with s the crop size, depends on seed and i alone."""

    def __init__(self, files: list[Path], settings: DistillSettings) -> None:
        self.files, self.settings = files, settings

    def __getitem__(self, index: int) -> Tensor:
        settings = self.settings
        rng = np.random.default_rng([settings.seed, index])
        image = read_rgb(str(self.files[int(rng.integers(len(self.files)))]))
        scale = settings.picture_size / max(image.shape[:2])
        scale *= math.exp(rng.uniform(*np.log(settings.scale_range)))
        return window(image, scale, settings.crop_size, rng)


def window(image: np.ndarray, scale: float, side: int, rng: np.random.Generator) -> Tensor:
    """A random window of an enlarged picture, perhaps mirrored, grey where it ends: uint8 RGB [3, side, side]."""
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    resized: np.ndarray = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    top, left = (int(rng.integers(max(1, n - side + 1))) for n in (height, width))
    square: np.ndarray = np.full((side, side, 3), 127, np.uint8)
    cut = resized[top : top + side, left : left + side]
    square[: cut.shape[0], : cut.shape[1]] = cut
    if rng.random() < 0.5:
        square = square[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))


class Student(nn.Module):
    """The small network and, for training alone, a projection of each of its maps to the teacher's channels.

    With ``keep_statistics`` its batch norms go on with those that they have: weights that come from a teacher fit them.
    """

    def __init__(self, network: TimmNetwork, teacher_channels: list[int], keep_statistics: bool = False) -> None:
        super().__init__()
        self.network = network
        self.keep_statistics = keep_statistics
        projections = [nn.Conv2d(own, theirs, 1) for own, theirs in zip(network.channels.values(), teacher_channels)]
        for projection in projections:
            # As far as there are channels for it the student's are the teacher's.
            nn.init.dirac_(projection.weight)
            assert projection.bias is not None
            nn.init.zeros_(projection.bias)
        self.project = nn.ModuleList(projections)

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d) and self.keep_statistics:
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB in 0..255, float [B, 3, s, s], to maps of the teacher's channels."""
        maps = self.network.look(images)
        return [project(normalised(feature)) for project, feature in zip(self.project, maps)]


def copy_same(source: nn.Module, target: nn.Module) -> int:
    """Copies the tensors whose names and shapes are the same in both; returns how many, ValueError if none."""
    state, given = target.state_dict(), source.state_dict()
    same = {key: given[key] for key, value in state.items() if key in given and given[key].shape == value.shape}
    if not same:
        raise ValueError("cut_from_teacher: the student has no tensor of the teacher's names and shapes")
    target.load_state_dict({**state, **same})
    return len(same)


def teacher_map(stride: int, strides: Sequence[int]) -> int:
    """Which of a teacher's maps, with cells of ``strides``, teaches a map with cells of ``stride``: the finest that is
    not finer, or the coarsest of all."""
    fitting = [k for k, theirs in enumerate(strides) if theirs >= stride]
    return min(fitting or [int(np.argmax(strides))], key=strides.__getitem__)


class Distiller(TimedTraining):
    """Teaches a network of timm what a semantic network sees."""

    def __init__(self, settings: DistillSettings, output_dir: str, command: str = "") -> None:
        teacher = read_network(settings.teacher, settings.teacher_weights).eval().requires_grad_(False)
        network = timm_features(settings.student, changes=dict(settings.student_args))
        if settings.cut_from_teacher:
            copied = copy_same(teacher, network)
            logger.info("%d of the student's %d tensors are the teacher's", copied, len(network.state_dict()))
            network.pixel_mean, network.pixel_std = teacher.pixel_mean, teacher.pixel_std
        self.taught = [teacher_map(stride, list(teacher.channels)) for stride in network.channels]
        torch.manual_seed(settings.seed)
        channels = [list(teacher.channels.values())[k] for k in self.taught]
        self.student = Student(network, channels, keep_statistics=settings.cut_from_teacher)
        missing = [folder for folder in settings.pictures if not Path(folder).is_dir()]
        if missing:
            raise ValueError(f"pictures: {missing[0]} is no folder")
        files = sorted({path for folder in settings.pictures for path, _ in pictures_of(Path(folder))[0]})
        self.files = [path for k, path in enumerate(files) if k % _VALIDATION_STEP]
        self.held_out = files[::_VALIDATION_STEP]
        if not self.files:
            raise ValueError(f"pictures: {', '.join(settings.pictures)}: expected 2 or more, got {len(files)}")
        super().__init__(settings, self.student, output_dir, command)
        self.settings: DistillSettings = settings
        self.teacher = teacher.to(self.device)

    @property
    def export_path(self) -> Path:
        return self.output_dir / "semantic" / "model.safetensors"

    def undecayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Norms and biases."""
        return parameter.ndim < 2

    def batches(self) -> Iterator[Tensor]:
        return endless_batches(_Windows(self.files, self.settings), self.settings, self.iteration)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Mean over maps of the smooth L1 distance between student and teacher."""
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            learned = self.student(batch.float())
        pairs = list(zip(learned, self._taught(batch, learned)))
        loss = torch.stack([F.smooth_l1_loss(own.float(), theirs) for own, theirs in pairs]).mean()
        return loss, {"loss": float(loss.detach()), **_similarities(pairs)}

    @torch.no_grad()
    def _taught(self, batch: Tensor, learned: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's maps on the grids of the student's."""
        maps = self.teacher.look(batch.float())
        sizes = [feature.shape[-1] for feature in learned]
        return [resample(normalised(maps[k]), size) for k, size in zip(self.taught, sizes)]

    @torch.no_grad()
    def validate(self, whole: bool = False) -> dict[str, float]:
        """Mean cosine of student and teacher on pictures that are not trained on."""
        average = self.average.module.eval()
        windows = _Windows(self.held_out, self.settings)
        count = len(self.held_out) if whole else min(self.settings.val_pictures, len(self.held_out))
        sums: dict[str, float] = {}
        for index in range(count):
            batch = windows[index][None].to(self.device)
            learned = average(batch.float())
            for name, value in _similarities(list(zip(learned, self._taught(batch, learned)))).items():
                sums[f"val/{name}"] = sums.get(f"val/{name}", 0.0) + value / count
        average.train()
        return sums

    def export(self, **figures: str) -> None:
        """A folder for MODEL.SEMANTIC.WEIGHTS, in half precision."""
        average: Any = self.average.module
        network = average.network
        state = {
            key: value.half() if value.is_floating_point() else value
            for key, value in network.network.state_dict().items()
        }
        about = {
            "model_args": dict(self.settings.student_args),
            "pretrained_cfg": {"mean": list(network.pixel_mean), "std": list(network.pixel_std)},
            "distilled": {**self.about(), "teacher": self.settings.teacher, **figures},
        }
        write_timm(state, str(self.export_path.parent), self.settings.student, about)


def _similarities(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean cosine of the cells of each pair of maps [B, D, h, w]."""
    return {
        f"cosine_{k}": float(F.cosine_similarity(own.detach().float(), theirs, dim=1).mean())
        for k, (own, theirs) in enumerate(pairs)
    }
