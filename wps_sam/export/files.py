"""An exported model as a file, stamped with all that a program needs to use it and a person to know it again."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from .. import __version__
from ..onnx_runtime import METADATA_KEY, VERSION
from ..outputs import check_outputs, stream_output
from ..predictor import PartPredictor
from .graph import PartGraph, example_inputs

if TYPE_CHECKING:
    import onnx

Format = Literal["onnx", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
INPUT_NAMES = ["image", "size", "confidence"]
# What the graph is written in: the first that has all of its operators.
OPSET = 18
# Convolutions are slower in int8 than in fp32 there, and lose more.
OPERATORS_IN_INT8 = ["MatMul", "Gemm"]


def export_model(
    predictor: PartPredictor,
    output: Path,
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    proposals: int | None = None,
) -> dict[str, Any]:
    """Writes the model of a predictor as one file.

    Args:
        predictor: its model, names, and way of seeing pictures.
        output: where to.
        format: "onnx"; or "torch", a program of ``torch.export``, with what it is stamped with as its extra file
            "wps_sam.json".
        precision: of weights and arithmetic; what goes in and out stays float32. fp16 and int8 for "onnx" alone.
        proposals: K, how many parts it finds at most; None for the config's MODEL.INFERENCE.MAX_PARTS.

    Returns:
        What the file is stamped with.

    Raises:
        ValueError: the model can't be exported, the settings do not fit together, or the file would replace another.
        ImportError: a package of the extra "export" is missing.
    """
    count = predictor.cfg.MODEL.INFERENCE.MAX_PARTS if proposals is None else proposals
    if count < 1:
        raise ValueError(f"proposals: expected 1 or more, got {count}")
    if format == "torch" and precision != "fp32":
        raise ValueError(f"precision: {precision} is for the format onnx; expected fp32 with torch")
    check_outputs([output], inputs=[predictor.weights])
    graph = PartGraph(predictor.model, count).cpu().eval()
    if format == "onnx":
        _import_onnx()
    with torch.no_grad():
        program = torch.export.export(graph, example_inputs(graph.image_size), strict=False)
    # A prompter may propose fewer.
    places = program.graph.output_node().args[0][0].meta["val"].shape[0]
    about = describe(predictor, places, precision)
    with stream_output(output) as path:
        if format == "torch":
            torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": json.dumps(about)})
        else:
            write_onnx(_to_onnx(program, graph.output_names), path, about)
    return about


def describe(predictor: PartPredictor, proposals: int, precision: str) -> dict[str, Any]:
    """What a file is stamped with, ready for JSON; docs/export.md explains it."""
    cfg = predictor.cfg
    backbone = predictor.model.backbone
    return {
        "version": VERSION,
        "wps_sam": __version__,
        "class_names": list(predictor.class_names),
        "image_size": backbone.image_size,
        "resize": "longest side, bilinear",
        "padding": backbone.padding,
        "exif": predictor.exif,
        "merge": cfg.MODEL.INFERENCE.MERGE,
        "naming": cfg.MODEL.INFERENCE.NAMING,
        "score_threshold": cfg.MODEL.INFERENCE.SCORE_THRESHOLD,
        "nms_threshold": cfg.MODEL.INFERENCE.NMS_THRESHOLD,
        "proposals": proposals,
        "precision": precision,
        "weights_sha256": hashlib.sha256(Path(predictor.weights).read_bytes()).hexdigest(),
        "frozen_sha256": predictor.model.compute_frozen_hash(),
        "config_sha256": hashlib.sha256(cfg.dump().encode()).hexdigest(),
    }


def write_onnx(model: onnx.ModelProto, path: Path, about: dict[str, Any]) -> None:
    """Writes a model in float32 in the precision that ``about`` names, stamped with it."""
    onnx = _import_onnx()
    if about["precision"] == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(model, keep_io_types=True)
    elif about["precision"] == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # It takes a model, and gives a file.
        quantize_dynamic(model, path, op_types_to_quantize=OPERATORS_IN_INT8, weight_type=QuantType.QInt8)
        model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(about, ensure_ascii=False)})
    onnx.save(model, path)


def _to_onnx(program: torch.export.ExportedProgram, outputs: list[str]) -> onnx.ModelProto:
    from onnxscript import optimizer

    # It tells of each node that it leaves as it is.
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    # Its own optimisation looks for patterns as well, which takes longer than all the rest, and runtimes do it anyway.
    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=INPUT_NAMES,
        output_names=outputs,
        opset_version=OPSET,
        optimize=False,
        verbose=False,
    )
    assert written is not None
    optimizer.fold_constants(written.model)
    optimizer.remove_unused_nodes(written.model)
    model = written.model_proto
    for node in model.graph.node:
        # Which line of which file it came from, a tenth of the file.
        node.ClearField("metadata_props")
    return model


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("the format onnx needs more packages: pip install '.[export]' in the clone") from error
    return onnx
