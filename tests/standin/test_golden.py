"""The stand-in answers every case as Detectron2 did; see cases.py for the cases, make_golden.py for the files."""

from __future__ import annotations

import wps_sam  # isort: skip  # noqa: F401

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cases import CASES, names

GOLDEN = Path(__file__).parent / "golden"


def standin(module: str) -> ModuleType:
    """The stand-in's module, under its own name: wherever the tests run, Detectron2 stays what it is."""
    return importlib.import_module(f"wps_sam.standin.{module}")


def golden(case: str) -> Any:
    return json.loads((GOLDEN / f"{case}.json").read_text(encoding="utf-8"))["answer"]


def assert_same(actual: Any, expected: Any, place: str = "answer") -> None:
    """Equal texts, whole numbers and shapes; numbers with a point to 1e-6."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict) and sorted(actual) == sorted(expected), place
        for key, value in expected.items():
            assert_same(actual[key], value, f"{place}[{key!r}]")
    elif isinstance(expected, list):
        assert isinstance(actual, list) and len(actual) == len(expected), f"{place}: {actual} is not {expected}"
        for i, value in enumerate(expected):
            assert_same(actual[i], value, f"{place}[{i}]")
    elif isinstance(expected, float) and isinstance(actual, float):
        assert actual == pytest.approx(expected, rel=1e-6, abs=1e-7), place
    else:
        assert type(actual) is type(expected) and actual == expected, f"{place}: {actual!r} is not {expected!r}"


@pytest.mark.parametrize("case", sorted(set(CASES) - {"names", "config"}))
def test_standin_answers_as_detectron2(case: str) -> None:
    assert_same(json.loads(json.dumps(CASES[case](standin))), golden(case))


def test_a_wrong_answer_is_noticed() -> None:
    for wrong in ([1, 2.1], [1, 2], [1], [1.0, 2.0], ["1", 2.0], {"0": 1, "1": 2.0}):
        with pytest.raises(AssertionError):
            assert_same(wrong, [1, 2.0])


def test_configs_have_detectron2s_values_wherever_they_have_its_keys() -> None:
    def check(ours: dict[str, Any], theirs: dict[str, Any], place: str) -> None:
        for key, value in ours.items():
            assert key in theirs, f"{place}.{key} is not Detectron2's"
            if isinstance(value, dict):
                check(value, theirs[key], f"{place}.{key}")
            else:
                assert_same(value, theirs[key], f"{place}.{key}")

    for name, ours in CASES["config"](standin).items():
        check(json.loads(json.dumps(ours)), golden("config")[name], name)


def test_every_public_name_is_detectron2s() -> None:
    """Code that runs on the stand-in must not fail on Detectron2 for want of a name."""
    theirs = golden("names")
    for module, ours in names(standin).items():
        file = standin(module).__file__
        package = f"wps_sam.standin.{module}" + ("." if file and file.endswith("__init__.py") else "")
        own = [n for n in ours if getattr(getattr(standin(module), n), "__module__", "").startswith(package)]
        assert set(own) <= set(theirs[module]), f"{module}: {sorted(set(own) - set(theirs[module]))}"
