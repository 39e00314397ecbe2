"""One line for people, and the name that they meant."""

from __future__ import annotations

from wps_sam.user_errors import did_you_mean, one_line

import pytest


def test_the_message_is_one_line() -> None:
    assert one_line(ValueError("a.json: line 3:\n    expected this\n")) == "a.json: line 3: expected this"
    assert one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SOLVER.MAX_ITERS", " (did you mean SOLVER.MAX_ITER?)"),
        ("solver.max_iter", " (did you mean SOLVER.MAX_ITER?)"),
        ("MAX_ITER", " (did you mean SOLVER.MAX_ITER?)"),
        ("something.else.entirely", ""),
    ],
)
def test_the_nearest_name_is_offered_if_it_is_near(name: str, hint: str) -> None:
    assert did_you_mean(name, ["MODEL.WEIGHTS", "SOLVER.BASE_LR", "SOLVER.MAX_ITER"]) == hint
