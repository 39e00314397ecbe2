"""Checkpoints from one form to another: official SAM files and the WPS-SAM authors' to ours, ours to a file to ship."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from safetensors.torch import save
from torch import Tensor, nn

from .checkpointer import SafeCheckpointer, to_safetensors
from .config import add_wps_sam_config
from .encoders.build_sam import build_sam, check_state_dict, read_state_dict, recognise_arch
from .outputs import check_outputs, write_output

logger = logging.getLogger(__name__)

SAM_PREFIX = "SAM_model."
# Where the modules of the authors' flat state dict live in our DETRPrompter.
PROMPTER_PREFIXES = {
    "conv_layers.": "neck.",
    "pos_embed": "position",
    "query_embed.": "queries.",
    "prompter.encoder.": "transformer.encoder.",
    "prompter.decoder.": "transformer.decoder.",
    "class_embed.": "class_head.",
    "coords_embed.": "prompt_head.",
}


@dataclass(frozen=True)
class ConvertedWPSSAM:
    """What a checkpoint of the authors, the file ``source``, holds.

    ``prompter`` and ``sam`` are state dicts of our ``DETRPrompter`` and of segment_anything's ``Sam``;
    ``options`` the configuration keys, with values, that a model for them must be built with.
    """

    source: str
    prompter: dict[str, Tensor]
    sam: dict[str, Tensor]
    options: dict[str, Any]


def convert_sam(source: str, arch: str | None = None) -> tuple[str, dict[str, Tensor]]:
    """Reads an official SAM checkpoint and proves that it is whole.

    Args:
        source: a ``.pth`` state dict or a ``.safetensors``; read without running any code in it.
        arch: vit_tiny, vit_b, vit_l, vit_h or mobile_sam; recognised from the sizes of the image encoder when None.

    Returns:
        The architecture and the state dict, fit for ``MODEL.SAM.WEIGHTS``.

    Raises:
        ValueError: the file can't be read or holds code, its architecture is unknown, or its keys and shapes are
            not exactly those of the architecture; names the file and every kind of difference.
    """
    state = read_state_dict(source)
    return check_sam(state, source, arch), state


def check_sam(state: Mapping[str, Tensor], source: str, arch: str | None = None) -> str:
    """Returns the architecture of ``state``; ValueError unless every key and shape is in place."""
    arch = arch or recognise_arch(state)
    if arch is None:
        raise ValueError(
            f"{source}: no known SAM has an image encoder of this size. Expected keys as in segment_anything.Sam, "
            f"found {len(state)} keys: {', '.join(sorted(state)[:5])}, ... Name the SAM if you know it."
        )
    with torch.device("meta"):
        expected = build_sam(arch)
    check_state_dict(expected, state, source=source, arch=arch)
    return arch


def convert_wps_sam(source: str) -> ConvertedWPSSAM:
    """Splits the authors' flat state dict into SAM and the prompter, and renames the latter's keys.

    The sizes of the prompter follow from the shapes of its tensors, except the number of heads, which leaves no
    trace in them: it is the paper's 8.

    Raises:
        ValueError: the file can't be read or holds code; a key is missing, unknown or has the wrong shape.
    """
    state = read_state_dict(source)
    sam = {key[len(SAM_PREFIX) :]: value for key, value in state.items() if key.startswith(SAM_PREFIX)}
    arch = check_sam(sam, f"{source} ({SAM_PREFIX}*)")
    prompter: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in state.items():
        if key.startswith(SAM_PREFIX):
            continue
        prefix = next((p for p in PROMPTER_PREFIXES if key.startswith(p)), None)
        if prefix is None:
            unknown.append(key)
        else:
            prompter[PROMPTER_PREFIXES[prefix] + key[len(prefix) :]] = value
    if unknown:
        raise ValueError(f"{source}: not a checkpoint of WPS-SAM's authors; unknown keys: {', '.join(unknown[:8])}")
    options = {"MODEL.SAM.ARCH": arch, **_read_sizes(prompter, source)}
    return ConvertedWPSSAM(source, prompter, sam, options)


def _read_sizes(prompter: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Configuration keys that the shapes of a DETRPrompter's state dict speak of."""
    try:
        return {
            "MODEL.PROMPTER.NAME": "DETRPrompter",
            "MODEL.PROMPTER.NUM_CLASSES": len(prompter["class_head.bias"]) - 1,
            "MODEL.DETR_PROMPTER.NUM_QUERIES": len(prompter["queries.weight"]),
            "MODEL.DETR_PROMPTER.FFN_DIM": len(prompter["transformer.encoder.layers.0.linear1.bias"]),
            "MODEL.DETR_PROMPTER.NUM_ENCODER_LAYERS": _count_layers(prompter, "transformer.encoder.layers."),
            "MODEL.DETR_PROMPTER.NUM_DECODER_LAYERS": _count_layers(prompter, "transformer.decoder.layers."),
            # How the authors' code pads, merges and prompts: the weights were trained with the first.
            "MODEL.SAM.PADDING": "center",
            "MODEL.INFERENCE.MERGE": "authors",
        }
    except KeyError as error:
        raise ValueError(f"{source}: misses the tensor that becomes prompter.{error.args[0]}") from error


def _count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def write_sam(state: Mapping[str, Tensor], path: str, inputs: Sequence[str] = ()) -> None:
    """Writes a state dict to ``path``, ``.safetensors`` or ``.pth``, whole or not at all.

    Raises:
        ValueError: another ending, or a file that is one of the ``inputs`` or that this project did not make.
    """
    suffix = Path(path).suffix
    if suffix not in (".safetensors", ".pth"):
        raise ValueError(f"{path}: expected a name that ends in .safetensors or .pth")
    tensors = {key: value.contiguous() for key, value in state.items()}
    if suffix == ".pth":
        write_output(path, lambda file: torch.save(tensors, file), inputs)
    else:
        write_output(path, save(tensors), inputs)
    logger.info("Wrote %s: %d tensors of SAM", path, len(tensors))


def write_wps_sam(converted: ConvertedWPSSAM, path: str, sam_path: str) -> None:
    """Writes a checkpoint for ``MODEL.WEIGHTS`` to ``path`` and the SAM it needs to ``sam_path``.

    The checkpoint is that of a model built on the written SAM, so it carries this SAM's hash and Fourier matrix as
    every checkpoint of ours does.

    Raises:
        ValueError: tensors of the prompter are missing, left over or of a wrong shape.
    """
    if Path(path).suffix != ".pth":
        raise ValueError(f"{path}: expected a name that ends in .pth")
    check_outputs([path, sam_path], [converted.source])
    write_sam(converted.sam, sam_path)
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SAM.WEIGHTS = sam_path
    cfg.merge_from_list([item for option in converted.options.items() for item in option])
    model = build_model(cfg)
    try:
        model.prompter.load_state_dict(converted.prompter, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{converted.source}: the part that becomes our prompter is not whole: {error}") from error
    write_output(path, lambda file: torch.save({"model": model.state_dict()}, file))
    options = " ".join(f"{key} {value}" for key, value in converted.options.items())
    logger.info("Wrote %s; use it with MODEL.SAM.WEIGHTS %s %s", path, sam_path, options)


def export_trained(source: str, path: str) -> None:
    """Writes what PartPredictor needs of a training's checkpoint: half-precision weights and the class names.

    Optimiser and schedule stay behind. ``path`` ends in .safetensors; the names lie in its metadata.

    Raises:
        ValueError: ``source`` is not a checkpoint of ``tools/train_net.py``.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    checkpoint = SafeCheckpointer.read(source)
    training = checkpoint.get("trainer", {})
    names = training.get("class_names")
    if not names:
        raise ValueError(f"{source}: holds no class names; expected a checkpoint written by tools/train_net.py")
    tensors = {
        # The Fourier matrix must stay what SAM has, to the last bit: its hash is checked.
        key: value.half() if key.startswith("prompter.") and value.is_floating_point() else value
        for key, value in checkpoint["model"].items()
    }
    write_output(path, to_safetensors(tensors, training), [source])
    logger.info("Wrote %s: %d tensors, %d part classes", path, len(tensors), len(names))


# ------------------------------------------------------------------ semantic networks


# How timm has to build it: TensorFlow's padding, and pictures in -1..1.
FOLDED_MOBILENET_V2: dict[str, Any] = {
    "num_classes": 1001,
    "model_args": {"pad_type": "same"},
    "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "input_size": [3, 224, 224],
        "num_classes": 1001,
    },
}


def convert_folded_mobilenet_v2(source: str) -> dict[str, Tensor]:
    """A MobileNetV2 1.0 of TensorFlow whose normalisations are folded into its convolutions, as a state dict of timm's.

    Args:
        source: a ``.safetensors`` with ``convs.{0..51}.{weight, bias}`` in the order of computation, and
            ``classifier``.

    Raises:
        ValueError: names the file and the first tensor that is missing or of another shape.
    """
    tensors = read_state_dict(source)
    network: Any = timm.create_model("mobilenetv2_100", num_classes=1001)
    state, modules = network.state_dict(), list(network.named_modules())
    found = [(name, module) for name, module in modules if isinstance(module, nn.Conv2d)]
    # timm normalises after every convolution: so that nothing is left to do but to add the bias.
    after = [name for name, module in modules if isinstance(module, nn.BatchNorm2d)]
    for k, ((name, convolution), norm) in enumerate(zip(found, after)):
        state[f"{name}.weight"] = _float(tensors, f"convs.{k}.weight", convolution.weight.shape, source)
        state[f"{norm}.bias"] = _float(tensors, f"convs.{k}.bias", state[f"{norm}.bias"].shape, source)
        state[f"{norm}.weight"] = torch.full_like(state[f"{norm}.bias"], (1 + network.get_submodule(norm).eps) ** 0.5)
    classifier = tuple(network.classifier.weight.shape)
    state["classifier.weight"] = _float(tensors, "classifier.weight", (*classifier, 1, 1), source)[:, :, 0, 0]
    state["classifier.bias"] = _float(tensors, "classifier.bias", classifier[:1], source)
    return state


def _float(tensors: Mapping[str, Tensor], name: str, shape: Sequence[int], source: str) -> Tensor:
    found = tuple(tensors[name].shape) if name in tensors else None
    if found != tuple(shape):
        raise ValueError(f"{source}: {name}: expected a tensor {tuple(shape)}, got {found or 'none'}")
    return tensors[name].float()


def write_timm(state: Mapping[str, Tensor], folder: str, architecture: str, about: Mapping[str, Any]) -> None:
    """A folder for ``MODEL.SEMANTIC.NAME timm``, as the hub of Hugging Face has them: config.json, model.safetensors.

    Args:
        state: of the whole network.
        folder: is made.
        architecture: timm's name.
        about: more of config.json, such as "model_args" and "pretrained_cfg".
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    files = [path / "config.json", path / "model.safetensors"]
    check_outputs(files)
    write_output(files[0], json.dumps({"architecture": architecture, **about}, indent=1).encode())
    write_output(files[1], save({key: value.contiguous() for key, value in state.items()}))
