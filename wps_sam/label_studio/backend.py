"""Answers for Label Studio's tasks: all parts of a picture, or the one that somebody points at."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.sources.fields import shown
from ..predictor import PartPredictor
from ..prompt_evaluation import Click, PromptedPicture
from ..user_errors import USER_ERRORS, one_line
from .labelling import Control
from .pictures import Pictures
from .results import region, regions_of

# So many pictures stay encoded while somebody points at their parts.
_PICTURES_KEPT = 4


class Backend:
    """One model and the pictures that it may see.

    ``model_version``: "wps-sam-" and the beginning of the SHA-256 of the weights' file.
    """

    def __init__(self, predictor: PartPredictor, pictures: Pictures) -> None:
        self.predictor = predictor
        self.model_version = f"wps-sam-{hashlib.sha256(Path(predictor.weights).read_bytes()).hexdigest()[:8]}"
        self._pictures = pictures
        self._encoded: OrderedDict[str, PromptedPicture] = OrderedDict()

    def predict(self, task: Mapping[str, Any], controls: Sequence[Control]) -> dict[str, Any]:
        """The prediction of a task: its regions, the mean score of the parts (0 without one), and the model's version.

        Raises:
            ValueError: names the task; its picture can't be had.
        """
        parts = self.predictor(self._pictures.read(_address(task, controls)))
        score = float(parts.scores.mean()) if len(parts) else 0.0
        return {"result": regions_of(parts, controls), "score": score, "model_version": self.model_version}

    def predict_all(
        self, tasks: Sequence[Mapping[str, Any]], controls: Sequence[Control]
    ) -> list[dict[str, Any] | str]:
        """A prediction for each task, or, where there is none, what is wrong with it in one line."""
        answers: list[dict[str, Any] | str] = []
        for task in tasks:
            try:
                answers.append(self.predict(task, controls))
            except USER_ERRORS as error:
                answers.append(one_line(error))
        return answers

    def point_at(
        self, task: Mapping[str, Any], controls: Sequence[Control], asked: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The part that keypoints and a rectangle mean, with the label that they have.

        Args:
            task, controls: as for :meth:`predict`.
            asked: results of Label Studio of the kinds keypointlabels and rectanglelabels; ``is_positive`` false or 0
                of a keypoint: the part is not there.

        Raises:
            ValueError: names what is missing of them.
        """
        address = _address(task, controls)
        picture = self._encoded.pop(address, None)
        if picture is None:
            picture = PromptedPicture(self.predictor.encoder, self._pictures.read(address))
        self._encoded[address] = picture
        while len(self._encoded) > _PICTURES_KEPT:
            self._encoded.popitem(last=False)
        height, width = picture.original_size
        box, clicks, label = _prompt(asked, height, width)
        control = next((c for c in controls if not c.smart and c.kind != "keypointlabels" and label in c.labels), None)
        if control is None:
            raise ValueError(f"label {label!r}: expected it among the labels of BrushLabels or RectangleLabels")
        mask = picture.mask(box, clicks)
        found = [region(control, label, mask, _name(asked))] if mask.any() else []
        return {"result": found, "model_version": self.model_version}


def precompute(
    backend: Backend, tasks: Any, where: str, controls: Sequence[Control]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The tasks with a prediction each, to be imported into Label Studio; and what is wrong with those without one.

    Args:
        tasks: of Label Studio's JSON: a list of tasks with ``data``, or of such data alone.
        where: begins the messages.

    Raises:
        ValueError: these are no tasks.
    """
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise ValueError(f"{where}: expected a list of tasks, got {shown(tasks)}")
    given = [task if "data" in task else {"data": task} for task in tasks]
    done, failed = [], []
    for number, (task, answer) in enumerate(zip(given, backend.predict_all(given, controls))):
        if isinstance(answer, str):
            failed.append(f"{where}: task {task.get('id', number)}: {answer}")
        done.append({**task, "predictions": [] if isinstance(answer, str) else [answer]})
    return done, failed


def _address(task: Mapping[str, Any], controls: Sequence[Control]) -> str:
    data, key = task.get("data"), controls[0].data_key
    address = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(address, str) or not address:
        raise ValueError(f"data.{key}: expected the address of a picture, got {shown(address)}")
    return address


def _prompt(
    asked: Sequence[Mapping[str, Any]], height: int, width: int
) -> tuple[tuple[float, float, float, float] | None, list[Click], str]:
    """The box and the clicks in pixels, and the label."""
    box, clicks, labels = None, [], []
    for k, one in enumerate(asked):
        where = f"context.result[{k}]"
        if not isinstance(one, Mapping):
            raise ValueError(f"{where}: expected a JSON object, got {shown(one)}")
        kind, value = str(one.get("type")), one.get("value")
        if kind not in ("keypointlabels", "rectanglelabels") or not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected keypointlabels or rectanglelabels, got {shown(one)}")
        x, y = _pixels(value, ("x", "y"), width, height, where)
        if kind == "rectanglelabels":
            across, down = _pixels(value, ("width", "height"), width, height, where)
            box = (x, y, x + across, y + down)
        else:
            clicks.append(Click(int(x), int(y), bool(one.get("is_positive", True))))
        names = value.get(kind)
        labels += names if isinstance(names, list) else []
    if not labels or not isinstance(labels[0], str):
        raise ValueError("context.result: expected a keypoint or a rectangle with a label")
    return box, clicks, labels[0]


def _pixels(
    value: Mapping[str, Any], keys: tuple[str, str], width: int, height: int, where: str
) -> tuple[float, float]:
    numbers = [value.get(key) for key in keys]
    if not all(isinstance(n, int | float) and np.isfinite(n) for n in numbers):
        raise ValueError(f"{where}.value: expected {' and '.join(keys)} as percents, got {shown(numbers)}")
    across, down = numbers
    return across * width / 100, down * height / 100  # type: ignore[operator]


def _name(asked: Sequence[Mapping[str, Any]]) -> str:
    """Another id for another question."""
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:10]
