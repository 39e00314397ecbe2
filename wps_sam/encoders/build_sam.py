"""Segment Anything from the ``segment_anything`` package, and MobileSAM: architectures and strict loading."""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from ..checkpointer import what_it_is
from .frozen import hash_tensors
from .tiny_vit import TinyViT

logger = logging.getLogger(__name__)

PROMPT_DIM = 256
PATCH_SIZE = 16
SHIPPED_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "sam_vit_tiny.safetensors"
# Random weights, the Fourier matrix of the prompt encoder among them, are drawn from this seed, so that
# two modules built apart belong together.
RANDOM_WEIGHTS_SEED = 0
# What trainers put around the weights, and before all of their names.
_WRAPPINGS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "model.", "sam.", "_orig_mod.")


@dataclass(frozen=True)
class SamArch:
    """Sizes of one SAM. ``image_size`` is the side of the padded square input in pixels."""

    image_size: int
    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int
    decoder_mlp_dim: int

    def image_encoder(self) -> nn.Module:
        """With random weights."""
        return ImageEncoderViT(
            depth=self.depth,
            embed_dim=self.embed_dim,
            img_size=self.image_size,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=self.num_heads,
            patch_size=PATCH_SIZE,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=self.global_attn_indexes,
            window_size=self.window_size,
            out_chans=PROMPT_DIM,
        )

    def made(self, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether the image encoder in ``state`` has this grid, width and depth."""
        position = state.get("image_encoder.pos_embed")
        grid = self.image_size // PATCH_SIZE
        depth = sum(key.endswith("attn.qkv.weight") for key in state)
        return position is not None and position.shape == (1, grid, grid, self.embed_dim) and depth == self.depth


@dataclass(frozen=True)
class MobileSamArch:
    """Sizes of one MobileSAM: a SAM whose image encoder is a TinyViT, of which four stages are described."""

    image_size: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_sizes: tuple[int, ...]
    decoder_mlp_dim: int

    def image_encoder(self) -> nn.Module:
        """With random weights."""
        return TinyViT(self.image_size, self.embed_dims, self.depths, self.num_heads, self.window_sizes, PROMPT_DIM)

    def made(self, state: Mapping[str, torch.Tensor]) -> bool:
        """Whether the image encoder in ``state`` has stages of these widths."""
        merging = (f"image_encoder.layers.{i}.downsample.conv1.c.weight" for i in range(len(self.depths) - 1))
        return all(key in state and state[key].shape[1] == dim for key, dim in zip(merging, self.embed_dims))


# The three published sizes (SAM paper, appendix A; ViTDet backbones), MobileSAM (arXiv 2306.14289, on TinyViT-5M), and
# our own for CPUs.
SAM_ARCHS: dict[str, SamArch | MobileSamArch] = {
    "vit_tiny": SamArch(512, 192, 8, 6, (1, 3, 5, 7), 8, 512),
    "vit_b": SamArch(1024, 768, 12, 12, (2, 5, 8, 11), 14, 2048),
    "vit_l": SamArch(1024, 1024, 24, 16, (5, 11, 17, 23), 14, 2048),
    "vit_h": SamArch(1024, 1280, 32, 16, (7, 15, 23, 31), 14, 2048),
    "mobile_sam": MobileSamArch(1024, (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7), 2048),
}


def get_arch(name: str) -> SamArch | MobileSamArch:
    """The sizes of ``name``; ValueError lists the known ones."""
    if name not in SAM_ARCHS:
        raise ValueError(f"MODEL.SAM.ARCH: unknown SAM {name!r}; expected one of {', '.join(SAM_ARCHS)}")
    return SAM_ARCHS[name]


def _sam(arch: SamArch | MobileSamArch) -> Sam:
    grid = arch.image_size // PATCH_SIZE
    return Sam(
        image_encoder=arch.image_encoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=PROMPT_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(arch.image_size, arch.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=arch.decoder_mlp_dim, num_heads=8),
            transformer_dim=PROMPT_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )


def build_sam(
    arch: str, weights: str = "", components: Iterable[str] = ("image_encoder", "prompt_encoder", "mask_decoder")
) -> Sam:
    """Builds SAM in eval mode, with the weights of a file or, without one, seeded random weights.

    Args:
        arch: a key of ``SAM_ARCHS``.
        weights: path of an official ``.pth`` or a ``.safetensors``; "shipped" for the vit_tiny that comes
            with this package; "" for random weights.
        components: the parts of SAM that are wanted. The others stay on the meta device, without memory;
            the checkpoint is checked as a whole all the same.

    Raises:
        ValueError: unknown ``arch``; a checkpoint that is missing, damaged, not a plain state dict, or whose
            keys or shapes are not exactly this SAM's, all of which are named.
    """
    config = get_arch(arch)
    if weights == "shipped":
        if arch != "vit_tiny":
            raise ValueError(f"MODEL.SAM.WEIGHTS: only vit_tiny is shipped with this package, not {arch}")
        weights = str(SHIPPED_WEIGHTS)
    if weights:
        state = read_state_dict(weights)
        with torch.device("meta"):
            sam = _sam(config)
        check_state_dict(sam, state, source=weights, arch=arch)
        for name in components:
            prefix = name + "."
            part = {k[len(prefix) :]: in_float32(v) for k, v in state.items() if k.startswith(prefix)}
            getattr(sam, name).load_state_dict(part, strict=True, assign=True)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            sam = _sam(config)
    return sam.eval()


def in_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers in float32; counts, such as a batch norm has, as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """Reads ``{name: tensor}`` from a ``.safetensors`` or a PyTorch file, never running code of it.

    Fine-tuned checkpoints are taken out of what their trainers put around them: ``{"model": ...}``, ``{"state_dict":
    ...}``, and one beginning of all names, such as DistributedDataParallel's ``module.`` or Lightning's ``model.``.

    Raises:
        ValueError: the file is missing, damaged, contains anything but tensors (a pickle may hold code), or
            nests them otherwise.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{path}: no such checkpoint file")
    if file.suffix == ".safetensors":
        try:
            return _unwrapped(load_file(path), path)
        except Exception as error:  # A damaged file makes the reader raise anything.
            raise ValueError(
                f"{path}: not a readable .safetensors file, but {what_it_is(path) or 'damaged, or another'} ({error})"
            ) from error
    try:
        with _numbers_allowed():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # As above.
        other = what_it_is(path)
        if other is None and isinstance(error, pickle.UnpicklingError):
            raise ValueError(
                f"{path}: refused, it holds more than tensors and reading it could run code. Expected a plain "
                f"state dict saved by torch.save. ({str(error).splitlines()[0]})"
            ) from error
        raise ValueError(f"{path}: not a readable PyTorch checkpoint, but {other or 'damaged'} ({error})") from error
    state = _unwrapped(state, path)
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        found = type(state).__name__
        if isinstance(state, Mapping):
            found += " with non-tensor values under " + ", ".join(
                repr(k) for k, v in list(state.items())[:5] if not isinstance(v, torch.Tensor)
            )
        raise ValueError(f"{path}: expected a flat state dict of tensors, found a {found}")
    return dict(state)


def _numbers_allowed() -> AbstractContextManager[Any]:
    """In it numbers of numpy are read too, such as scores that trainers put beside the weights."""
    scalar: Any = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [scalar, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8"))]
    # Files of numpy 1 call it by its old name, which torch lets one say since 2.6.
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        return nullcontext()
    return torch.serialization.safe_globals([*allowed, (scalar, "numpy.core.multiarray.scalar")])


def _unwrapped(state: Any, path: str) -> Any:
    """What is inside the wrappings that trainers put around a state dict, which are said in one line."""
    removed = []
    while isinstance(state, Mapping):
        key = next((k for k in _WRAPPINGS if isinstance(state.get(k), Mapping)), None)
        if key is None:
            break
        state = state[key]
        removed.append(f'{{"{key}": ...}}')
    while isinstance(state, Mapping) and state and all(isinstance(key, str) for key in state):
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key[len(prefix) :]: value for key, value in state.items()}
        removed.append(repr(prefix))
    if removed:
        logger.info("%s: taken out of %s", path, " and ".join(removed))
    return state


def check_state_dict(module: nn.Module, state: Mapping[str, torch.Tensor], source: str, arch: str) -> None:
    """Raises ValueError unless ``state`` has exactly the keys and shapes of ``module``; names the differences."""
    found = recognise_arch(state)
    hint = f" It looks like a {found}: set MODEL.SAM.ARCH." if found not in (None, arch) else ""
    refuse_differences(
        key_differences(module.state_dict(), state), f"{source}: these are not the weights of SAM {arch}.{hint}"
    )


def key_differences(expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """In what the keys and shapes of ``state`` are not those expected: names by the kind of difference."""
    return {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} ({tuple(state[key].shape)}, expected {tuple(value.shape)})"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }


def refuse_differences(differences: Mapping[str, Sequence[str]], message: str) -> None:
    """Raises ValueError with ``message`` and the first names of each kind, if there are any."""
    lines = [
        f"{len(keys)} {kind}: {', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
        for kind, keys in differences.items()
        if keys
    ]
    if lines:
        raise ValueError(message + "\n  " + "\n  ".join(lines))


def recognise_arch(state: Mapping[str, torch.Tensor]) -> str | None:
    """The SAM whose image encoder has the sizes of that in ``state``; None where there is none."""
    return next((name for name, arch in SAM_ARCHS.items() if arch.made(state)), None)


def image_encoder_hash(arch: str, weights: str) -> str:
    """SHA-256 of SAM's image encoder alone, which is all that image embeddings depend on.

    Args:
        arch, weights: as for :func:`build_sam`. A file is read anew only when it has changed.
    """
    path = SHIPPED_WEIGHTS if weights == "shipped" else Path(weights)
    stat = path.stat() if path.is_file() else None
    return _image_encoder_hash(arch, weights, stat and (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache
def _image_encoder_hash(arch: str, weights: str, _: tuple[int, int] | None) -> str:
    encoder = build_sam(arch, weights, components=("image_encoder",)).image_encoder
    return hash_tensors(sorted(encoder.state_dict().items()))
