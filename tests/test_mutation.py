"""The changes that tests/mutation.py makes, and its list of those that make no difference."""

from __future__ import annotations

from collections import Counter

import mutation
import pytest

SOURCE = '''"""Documentation is 1 thing."""
import logging

logger = logging.getLogger(__name__)
LIMIT = 7


def reached(score: int, least: int = 3) -> bool:
    """Whether 1 < 2."""
    logger.info("1 of %d", 2 + 3)
    if least < 0:
        raise ValueError(f"expected {0 + 1}")
    return score >= least and score < LIMIT
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    (tmp_path / "scores.py").write_text(SOURCE)
    return "scores.py"


def test_every_place_that_matters_is_changed_and_no_other(module):
    assert Counter((mutant.node.lineno, mutant.change) for mutant in mutation.mutants(module)) == Counter(
        [
            (5, "7 -> 8"),
            (5, "7 -> 6"),
            (8, "3 -> 4"),
            (8, "3 -> 2"),
            (11, "least < 0 -> least <= 0"),
            (11, "0 -> 1"),
            (12, "raise ValueError(f'expected {0 + 1}') ->"),
            (13, "return score >= least and score < LIMIT -> return None"),
            (13, "score >= least and score < LIMIT -> score >= least or score < LIMIT"),
            (13, "score >= least -> score > least"),
            (13, "score < LIMIT -> score <= LIMIT"),
        ]
    )


def test_a_change_is_made_in_functions_that_are_there_already(module):
    file = str(mutation.ROOT / module)
    before = compile(SOURCE, file, "exec")
    space: dict = {"__name__": "scores"}
    exec(before, space)
    kept = space["reached"]
    (found,) = (m for m in mutation.mutants(module) if m.change == "score >= least -> score > least")
    assert found.key == f"scores.py | reached | {SOURCE.splitlines()[-1].strip()} | {found.change}"
    assert kept(3) and mutation.exchange(mutation.live_functions(file), before, found.code())
    assert not kept(3) and kept(4)
    # Defaults and constants are made on import.
    for place in (5, 8):
        (other, _) = (m for m in mutation.mutants(module) if m.node.lineno == place)
        assert mutation.outside_functions(other.code()) != mutation.outside_functions(before)
    assert mutation.outside_functions(found.code()) == mutation.outside_functions(before)


def test_what_makes_no_difference_is_still_there_and_has_a_reason():
    reasons = mutation.equivalents()
    paths = {key.split(" | ")[0] for key in reasons}
    known = {mutant.key for path in paths for mutant in mutation.mutants(path)}
    assert not set(reasons) - known and all(reasons.values())


def test_guards_are_there():
    for path, tests in mutation.GUARDS.items():
        assert all((mutation.ROOT / name.split("::")[0]).exists() for name in (path, *tests))
