"""The registry of evaluation protocols: what each is called, measures and fits, filled where each evaluator is defined.

A protocol of your own needs one class, in any file that is imported before the configuration is read::

    @register_protocols(Protocol(name="boundary_iou", note="near the outlines only", fits=with_background))
    class BoundaryIoUEvaluator(PartEvaluator):
        ...

Its name then stands in TEST.PROTOCOLS beside the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

from wps_sam.evaluation.evaluator import PartEvaluator
from wps_sam.evaluation.ground_truth import GroundTruth

from detectron2.evaluation import DatasetEvaluators

logger = logging.getLogger(__name__)

# What :func:`build_evaluators` can hand to an evaluator; "protocols" are those that it is asked for.
Option = Literal["protocols", "wps_authors_null", "ov_compat", "object_predictions"]

# What "auto" stands for where a data set's metadata does not say.
DEFAULT_PROTOCOLS = ("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap")


class PartColumn(NamedTuple):
    """A column of the table that has a row for each part.

    Attributes:
        heading: what stands above it.
        metric: its numbers are the results called ``{metric}-{part name}``.
        order: columns stand from left to right by this number, and of the same number as they were registered.
    """

    heading: str
    metric: str
    order: int = 0


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """What a report says of one entry of the results.

    Attributes:
        name: its key in the results.
        note: what it measures, in a few words for the reader.
        columns: of the table of parts.
        group_means: metrics that are also given over the seen and the unseen classes, as ``{metric}-base`` and
            ``{metric}-unbase``; a hyphen otherwise marks the score of one class.
    """

    name: str
    note: str
    columns: tuple[PartColumn, ...] = ()
    group_means: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Protocol(ReportRow):
    """A way of measuring that TEST.PROTOCOLS can ask for.

    Attributes:
        fits: whether a data set can answer its question.
        needs_masks: it has nothing to say of a data set that has boxes alone.
        options: keyword of the evaluator to what :func:`build_evaluators` gives for it.
        evaluator: the class, which :func:`register_protocols` fills in. Called with dataset_name, distributed and
            output_dir, and the keywords ground_truth and those of ``options``.
    """

    fits: Callable[[GroundTruth], bool]
    needs_masks: bool = True
    options: Mapping[str, Option] = field(default_factory=dict)
    evaluator: Callable[..., PartEvaluator] = PartEvaluator


# By name, in order of registration, which is that of the results.
PROTOCOLS: dict[str, Protocol] = {}
# The protocols, and rows that come about otherwise, as those of the oracles.
REPORT_ROWS: dict[str, ReportRow] = {}

_Evaluator = TypeVar("_Evaluator", bound=PartEvaluator)


def register_row(row: ReportRow) -> None:
    """Adds a row to what a report can explain.

    Raises:
        ValueError: the name is taken.
    """
    if row.name in (*REPORT_ROWS, "auto"):
        raise ValueError(f"protocol {row.name!r}: the name is taken")
    REPORT_ROWS[row.name] = row


def is_overall(protocol: str, metric: str) -> bool:
    """Whether a score is of all classes, or of a group of them; a hyphen otherwise marks that of one class."""
    means = REPORT_ROWS[protocol].group_means if protocol in REPORT_ROWS else ()
    return "-" not in metric or metric in {f"{mean}-{group}" for mean in means for group in ("base", "unbase")}


def register_protocols(*protocols: Protocol) -> Callable[[type[_Evaluator]], type[_Evaluator]]:
    """Class decorator: the protocols that an evaluator serves, several where one count gives them all.

    Such an evaluator is built once for all of them, and takes the option "protocols" to learn which are asked for.

    Raises:
        ValueError: a name is taken.
    """

    def register(evaluator: type[_Evaluator]) -> type[_Evaluator]:
        for protocol in protocols:
            register_row(protocol)
            PROTOCOLS[protocol.name] = replace(protocol, evaluator=evaluator)
        evaluator.PROTOCOLS = tuple(protocol.name for protocol in protocols)
        return evaluator

    return register


def with_background(truth: GroundTruth) -> bool:
    """Whole pictures, whose part maps know a background."""
    return truth.has_background and not truth.is_object_conditioned


def without_background(truth: GroundTruth) -> bool:
    """Whole pictures, of whose other pixels nothing is known."""
    return not (truth.has_background or truth.is_object_conditioned)


def whole_pictures(truth: GroundTruth) -> bool:
    """A record is a picture, not one object of it."""
    return not truth.is_object_conditioned


def single_objects(truth: GroundTruth) -> bool:
    """A record is one object, whose mask and class the model is told."""
    return truth.is_object_conditioned


def check_protocols(names: Sequence[str]) -> None:
    """Refuses what TEST.PROTOCOLS can't be, whatever the data set.

    Raises:
        ValueError: a name is unknown, with those that are allowed, or stands there twice.
    """
    allowed = ("auto", *PROTOCOLS)
    for name in names:
        if name not in allowed:
            raise ValueError(f"TEST.PROTOCOLS is {name!r}; allowed: {', '.join(map(repr, allowed))}")
    if len(set(names)) != len(names):
        raise ValueError(f"TEST.PROTOCOLS: each at most once, got {list(names)}")


@cache
def _warn_once(message: str) -> None:
    """A training evaluates the same data set many times."""
    logger.warning(message)


def build_evaluators(
    protocols: Sequence[str],
    dataset_name: str,
    output_dir: str | None = None,
    distributed: bool = True,
    *,
    wps_authors_null: Literal["drop", "zero"] = "drop",
    ov_compat: Sequence[str] = (),
    object_predictions: str = "",
    training_family: str | None = None,
) -> DatasetEvaluators:
    """The evaluators of several protocols, which read the data set once and share it.

    Of a data set without masks those that need masks are left out, which is logged.

    Args:
        protocols: names out of ``PROTOCOLS``, or "auto": those of the data set's metadata, and where that does not
            say, or says "auto" too, ``DEFAULT_PROTOCOLS``.
        dataset_name: as registered in Detectron2's catalogs.
        output_dir: folder for predictions and other files that explain the numbers; None writes none.
        distributed: gather from all processes.
        wps_authors_null: what an image without prediction costs in wps_authors.
        ov_compat: see :class:`OracleObjectEvaluator`.
        object_predictions: see :class:`PredictedObjectEvaluator`.
        training_family: see :class:`GroundTruth`.

    Raises:
        ValueError: a protocol is unknown, named twice, or does not fit the data set; lists the names that are valid. Or
            all need masks, and the data set has none.
    """
    check_protocols(protocols)
    truth = GroundTruth(dataset_name, training_family)
    asked = _without_auto(_without_auto(protocols, truth.metadata.get("protocols", ["auto"])), DEFAULT_PROTOCOLS)
    fitting = [name for name, protocol in PROTOCOLS.items() if protocol.fits(truth)]
    unfit = [name for name in asked if name not in fitting]
    if unfit:
        raise ValueError(f"{dataset_name}: protocols {unfit} do not fit this data set; {fitting} do")
    if not truth.has_masks:
        lacking = [name for name in asked if PROTOCOLS[name].needs_masks]
        asked = [name for name in asked if name not in lacking]
        if not asked:
            boxes = [name for name in fitting if not PROTOCOLS[name].needs_masks]
            raise ValueError(f"{dataset_name}: no annotation has a mask, as protocols {lacking} need; {boxes} do not")
        _warn_once(
            f"{dataset_name}: no annotation has a mask: of its scores there are those of boxes, such as box_AP, and "
            f"not {', '.join(lacking)} nor oracles. Some dozen pictures with masks are enough; training needs none"
        )
    by_evaluator: dict[Callable[..., PartEvaluator], list[Protocol]] = {}
    for name, protocol in PROTOCOLS.items():
        if name in asked:
            by_evaluator.setdefault(protocol.evaluator, []).append(protocol)
    evaluators = []
    for evaluator, served in by_evaluator.items():
        given: dict[Option, Any] = {
            "protocols": [protocol.name for protocol in served],
            "wps_authors_null": wps_authors_null,
            "ov_compat": ov_compat,
            "object_predictions": object_predictions,
        }
        options = {key: given[source] for protocol in served for key, source in protocol.options.items()}
        evaluators.append(evaluator(dataset_name, distributed, output_dir, ground_truth=truth, **options))
    return DatasetEvaluators(evaluators)


def _without_auto(names: Sequence[str], stands_for: Sequence[str]) -> list[str]:
    """The names with those that "auto" stands for in its place."""
    return [name for given in names for name in (stands_for if given == "auto" else [given])]
