"""Evaluation: every data set of DATASETS.TEST by every protocol of TEST.PROTOCOLS."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..checkpointer import SafeCheckpointer, write_atomically
from ..config import is_open_vocabulary
from ..data.sources.coco_json import fold
from ..data.weak_labels import part_point
from ..evaluation import (
    BoxPromptOracle,
    FilledBoxOracle,
    GroundTruth,
    PointPromptOracle,
    TrueBoxesOracle,
    TrueNamesOracle,
    build_evaluators,
    format_results_table,
    oracle_scores,
    unseen_classes,
)
from ..vocabulary import PartVocabulary
from .loader import build_test_loader, contents, open_test_features
from .provenance import differences, hash_data, hash_weights, made_by

logger = logging.getLogger(__name__)

# {data set: {protocol: {metric: percent}}}
Results = dict[str, dict[str, dict[str, float]]]


def evaluate(
    cfg: CfgNode,
    model: torch.nn.Module,
    oracles: bool | None = None,
    trained_on: Sequence[str] | None = None,
    watcher: DatasetEvaluator | None = None,
    data: Mapping[str, str] | None = None,
) -> Results:
    """Scores ``model`` on every data set of DATASETS.TEST with every protocol of TEST.PROTOCOLS.

    The main process prints Detectron2's lines for copying and a table for reading, and writes
    ``OUTPUT_DIR/evaluation.json``, where a value that is not a number is null, and ``provenance.json``, which says by
    what it was made.

    Args:
        cfg: as from :func:`setup`.
        model: a WPSSAM, also inside DistributedDataParallel.
        oracles: also score the ceiling and the floor, as protocols ``oracle_box_prompt`` and
            ``oracle_filled_box``; None takes TEST.ORACLES.
        trained_on: the classes that training showed; None takes those of DATASETS.TRAIN, if that is registered.
        watcher: sees all inputs and outputs of the first of DATASETS.TEST, too.
        data: the hash of each data set, where it is known.

    Returns:
        On the main process {data set: {protocol: {metric: percent}}}, elsewhere {}.
    """
    results: Results = {}
    for name in cfg.DATASETS.TEST:
        set_vocabulary(model, name, training_classes(cfg) if trained_on is None else trained_on)
        loader = build_test_loader(cfg, name)
        evaluators = [build_evaluator(cfg, name)]
        if watcher is not None and name == cfg.DATASETS.TEST[0]:
            evaluators.append(watcher)
        scores = inference_on_dataset(model, loader, DatasetEvaluators(evaluators))
        # The oracles need annotated boxes, which sets whose labels are maps alone do not have.
        has_boxes = MetadataCatalog.get(name).evaluator_type == "part_seg"
        if has_boxes and (cfg.TEST.ORACLES if oracles is None else oracles):
            scores.update(evaluate_oracles(cfg, model, loader, name))
            warn_of_weak_masks(scores, name)
        if comm.is_main_process():
            results[name] = scores
            logger.info("Results on %s, for copying:", name)
            print_csv_format(scores)
    if data is None:
        data = hashes_of_test_sets(cfg)
    if comm.is_main_process():
        text = json.dumps(_without_nan(results), indent=1).encode()
        about = {
            "evaluation_sha256": hashlib.sha256(text).hexdigest(),
            "weights_sha256": hash_weights(_unwrapped(model)),
            **made_by({name: data[name] for name in cfg.DATASETS.TEST}),
        }
        _write(cfg, "evaluation.json", text)
        _write(cfg, "provenance.json", json.dumps(about, indent=1).encode())
        for name, scores in results.items():
            metadata = MetadataCatalog.get(name)
            table = format_results_table(scores, metadata.thing_classes, unseen_classes(metadata))
            logger.info("Results on %s:\n%s", name, table)
    return results


def _write(cfg: CfgNode, name: str, content: bytes) -> None:
    write_atomically(os.path.join(cfg.OUTPUT_DIR, name), lambda file: file.write(content))


def evaluate_oracles(
    cfg: CfgNode, model: torch.nn.Module, loader: DataLoader, dataset_name: str
) -> dict[str, dict[str, float]]:
    """What ``model``'s SAM makes of the true boxes, or points where it learned from such; what the boxes are worth when
    just filled in; and what the model would score with true names, or with true boxes.

    Returns:
        {"oracle_box_prompt": {metric: percent}, "oracle_filled_box": ...} on the main process, else {}. {} for a data
        set without masks, too.
    """
    truth, inner = GroundTruth(dataset_name), _unwrapped(model)
    if not truth.has_masks:
        return {}

    def predict(inputs: Sequence[Mapping[str, Any]]) -> Any:
        """As in an evaluation, also in the middle of a training."""
        was_training = inner.training
        inner.eval()
        try:
            return inner(inputs)
        finally:
            inner.train(was_training)

    oracles: dict[str, torch.nn.Module] = {
        "oracle_box_prompt": BoxPromptOracle(truth, inner.prompt_boxes),
        "oracle_filled_box": FilledBoxOracle(truth),
        "oracle_true_names": TrueNamesOracle(truth, predict),
        "oracle_true_boxes": TrueBoxesOracle(truth, inner.prompt_boxes, predict),
    }
    if cfg.WEAK_LABELS.TYPE == "point":
        point = functools.partial(part_point, rule=cfg.WEAK_LABELS.POINT, seed=cfg.WEAK_LABELS.SEED)
        oracles["oracle_point_prompt"] = PointPromptOracle(truth, inner.prompt_points, point)
    rows = {}
    for name, oracle in oracles.items():
        logger.info("Evaluating %s on %s", name, dataset_name)
        evaluators = build_evaluators(["d2_semseg", "wps_image_part"], dataset_name)
        scores = inference_on_dataset(oracle, loader, evaluators)
        if comm.is_main_process():
            rows[name] = oracle_scores(scores)
    return rows


def warn_of_weak_masks(scores: Mapping[str, Mapping[str, float]], dataset_name: str) -> None:
    """Says where the segmenter's masks of the true boxes are worth less than these boxes filled."""
    asked, filled = (scores.get(f"oracle_{way}", {}).get("mIoU", math.nan) for way in ("box_prompt", "filled_box"))
    if asked < filled:
        logger.warning(
            "%s: SAM's masks of the true boxes have %.1f mIoU, less than the boxes filled in, %.1f: this SAM does not "
            "know such pictures, and no prompter can do better than it. Take a larger one (MODEL.SAM.ARCH, WEIGHTS), "
            "or train it on (tools/pretrain_sam.py); tools/evaluate_prompts.py compares them",
            *(dataset_name, asked, filled),
        )


def evaluate_only(cfg: CfgNode, resume: bool = False) -> Results:
    """Scores MODEL.WEIGHTS, or where it is empty, or with ``resume``, the last checkpoint of OUTPUT_DIR.

    Returns as :func:`evaluate`.

    Raises:
        ValueError: there are no weights.
        SystemExit: with code 1 when one of TEST.EXPECTED_RESULTS is missed.
    """
    model, training = trained_model(cfg, resume)
    data = hashes_of_test_sets(cfg)
    warn_of_differences(training.get("made_by"), made_by(data), "These weights were made")
    results = evaluate(cfg, model, trained_on=training["class_names"], data=data)
    if comm.is_main_process():
        verify(cfg, by_protocol(results))
    return results


def hashes_of_test_sets(cfg: CfgNode) -> dict[str, str]:
    """The hash of each of DATASETS.TEST by its name, see :func:`hash_data`."""
    return {
        name: hash_data(DatasetCatalog.get(name), contents(open_test_features(cfg, name))) for name in cfg.DATASETS.TEST
    }


def warn_of_differences(then: Mapping[str, Any] | None, now: Mapping[str, Any], what: str) -> None:
    """Says in one line where ``what`` was done by other code, libraries or data than now; None: nobody knows."""
    different = differences(then, now) if then else []
    if different:
        logger.warning("%s otherwise, and scores may differ: %s", what, "; ".join(different))


def trained_model(cfg: CfgNode, resume: bool = False) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model of MODEL.WEIGHTS or the last checkpoint, as for :func:`evaluate_only`, and what it says of training.

    Of this ``class_names`` is there always, None where nobody knows them.

    Raises:
        ValueError: there are no weights, or DATASETS.TEST numbers the classes in another way.
    """
    model = build_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, strict=True)
    resume = (resume or not cfg.MODEL.WEIGHTS) and checkpointer.has_checkpoint()
    weights = checkpointer.get_checkpoint_file() if resume else cfg.MODEL.WEIGHTS
    # A model of which nothing is trained, such as CLIPSeg as downloaded, needs none.
    if not weights and any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            f"MODEL.WEIGHTS is empty, and OUTPUT_DIR ({cfg.OUTPUT_DIR}) holds no last_checkpoint: train first, or add "
            "MODEL.WEIGHTS FILE"
        )
    last = ", the last checkpoint of OUTPUT_DIR" if resume else ""
    logger.info("Weights: %s%s", weights or "the model as it was downloaded", last)
    # The training set need not be here: its checkpoint knows its classes.
    training: dict[str, Any] = {"class_names": training_classes(cfg)}
    if os.path.isfile(weights):
        training |= SafeCheckpointer.read(weights).get("trainer", {})
    check_trained_classes(cfg, training["class_names"], weights)
    checkpointer.load(weights, checkpointables=[])
    return model, training


def set_vocabulary(model: torch.nn.Module, dataset_name: str, trained_on: Sequence[str] | None) -> None:
    """Tells the model the classes of a data set, and which of them training showed; None: nobody knows.

    A model of somebody else's may have no use for them.
    """
    inner = _unwrapped(model)
    if hasattr(inner, "set_vocabulary"):
        vocabulary = PartVocabulary.of(MetadataCatalog.get(dataset_name))
        inner.set_vocabulary(vocabulary if trained_on is None else vocabulary.after_training_on(trained_on))


def check_trained_classes(cfg: CfgNode, trained_on: Sequence[str] | None, weights: str) -> None:
    """Requires that the data sets of DATASETS.TEST number the classes as the training did, if that is known.

    A model that takes its classes by name may be asked for others.

    Raises:
        ValueError: names the weights, the data set, and the first class that differs.
    """
    if trained_on is None or is_open_vocabulary(cfg):
        return
    for name in cfg.DATASETS.TEST:
        own = MetadataCatalog.get(name).thing_classes
        if len(own) != len(trained_on):
            raise ValueError(
                f"{weights}: trained on {len(trained_on)} classes, {list(trained_on)}, but data set {name} has "
                f"{len(own)}: {list(own)}"
            )
        for i, (learned, asked) in enumerate(zip(trained_on, own)):
            if fold(learned) != fold(asked):
                raise ValueError(
                    f"{weights}: class {i} is {learned!r} in training and {asked!r} in data set {name}: "
                    f"write classes: {list(trained_on)} into its description"
                )


def training_classes(cfg: CfgNode) -> list[str] | None:
    """The classes of DATASETS.TRAIN; None where there is none, or it is not registered, as for evaluation elsewhere."""
    registered = [name for name in cfg.DATASETS.TRAIN[:1] if name in DatasetCatalog.list()]
    return list(MetadataCatalog.get(registered[0]).thing_classes) if registered else None


def _family(dataset_name: str) -> str | None:
    return MetadataCatalog.get(dataset_name).get("family")


def _unwrapped(model: torch.nn.Module) -> Any:
    return model.module if isinstance(model, DistributedDataParallel) else model


def by_protocol(results: Results) -> dict[str, Any]:
    """Detectron2's shape: the level of data sets only where there are several."""
    return next(iter(results.values())) if len(results) == 1 else results


def verify(cfg: CfgNode, results: Mapping[str, Any]) -> None:
    """Checks TEST.EXPECTED_RESULTS, whose protocols read ``data set/protocol`` where there are several data sets.

    Raises:
        ValueError: an expected protocol was not evaluated.
        SystemExit: with code 1 when a result is missed.
    """
    if len(cfg.DATASETS.TEST) > 1:
        results = {f"{name}/{protocol}": v for name, one in results.items() for protocol, v in one.items()}
    for protocol, *_ in cfg.TEST.EXPECTED_RESULTS:
        if protocol not in results:
            raise ValueError(f"TEST.EXPECTED_RESULTS names {protocol!r}; evaluated: {', '.join(results)}")
    verify_results(cfg, results)


def _without_nan(value: Any) -> Any:
    """The same tree with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, Mapping):
        return {key: _without_nan(v) for key, v in value.items()}
    return value if math.isfinite(value) else None


def build_evaluator(cfg: CfgNode, dataset_name: str) -> Any:
    """All of TEST.PROTOCOLS at once."""
    return build_evaluators(
        cfg.TEST.PROTOCOLS,
        dataset_name,
        # As in Detectron2, and a folder for each data set: their files have the same names.
        output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name),
        wps_authors_null=cfg.TEST.WPS_AUTHORS_NULL,
        ov_compat=cfg.TEST.OV_COMPAT,
        object_predictions=cfg.TEST.OBJECT_PREDICTIONS,
        training_family=_family(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None,
    )
