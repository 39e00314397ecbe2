"""Changes the code in one small place after the other, and says which changes no test notices.

    python tests/mutation.py --sample 40
    python tests/mutation.py --files wps_sam/prompters/losses.py --seed 3

``GUARDS`` says which tests guard which file. Survivors are printed with their line; fewer than 95 % noticed is exit
code 1. A change that makes no difference has a line in mutation_equivalents.txt with the reason, and is left out.

A process a file imports everything and collects its tests once, and sees which test runs which line. Each change is
made in a fork of it, in the functions' code, and only the tests that run the line are run. What is computed while
modules are imported (constants, defaults of parameters) is imported anew in a fork that has PyTorch alone. Processes
that tests start see the code as it is.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.main import pytest_runtestloop as run_collected

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENTS = ROOT / "tests" / "mutation_equivalents.txt"
INFERENCE = ("tests/inference",)
SEM_SEG, OPEN, PARTS, REPORT = (
    f"tests/evaluation/test_{name}.py" for name in ("part_sem_seg", "open_vocabulary", "part_detection", "report")
)
# What is changed: the tests that are to notice.
GUARDS: dict[str, tuple[str, ...]] = {
    "wps_sam/structures.py": ("tests/test_structures.py", *INFERENCE),
    "wps_sam/mask_losses.py": ("tests/prompters/test_losses.py",),
    "wps_sam/masks.py": (
        "tests/test_masks.py",
        "tests/real_files/test_nothing_lost.py::test_files_of_16_bits_are_read_by_the_bits_they_use",
        "tests/real_files/test_nothing_lost.py::test_a_later_page_of_16_bits_is_not_the_first",
        "tests/real_files/test_nothing_lost.py::test_an_orientation_behind_the_pixels_of_a_png",
    ),
    "wps_sam/checkpointer.py": ("tests/test_checkpointer.py",),
    "wps_sam/prompters/losses.py": ("tests/prompters/test_losses.py",),
    "wps_sam/prompters/matcher.py": ("tests/prompters/test_matcher.py",),
    "wps_sam/prompters/dense.py": ("tests/prompters/test_prompter.py",),
    "wps_sam/inference/merge.py": INFERENCE,
    "wps_sam/inference/naming.py": INFERENCE,
    "wps_sam/inference/select.py": INFERENCE,
    "wps_sam/encoders/mask_decoder.py": (
        "tests/encoders/test_mask_decoder.py",
        "tests/encoders/test_hugging_face.py::test_masks_are_the_librarys_own",
    ),
    "wps_sam/encoders/promptable.py": ("tests/data/test_mapper.py", "tests/encoders/test_sam.py"),
    "wps_sam/data/mapper.py": ("tests/data/test_mapper.py",),
    "wps_sam/data/weak_labels.py": ("tests/data/test_weak_labels.py", "tests/data/test_mapper.py"),
    "wps_sam/data/sources/pascal_part.py": ("tests/data/sources/test_pascal_part.py",),
    "wps_sam/evaluation/evaluator.py": (SEM_SEG,),
    "wps_sam/evaluation/ground_truth.py": (SEM_SEG, OPEN, PARTS),
    "wps_sam/evaluation/metrics.py": ("tests/evaluation/test_metrics.py",),
    "wps_sam/evaluation/open_vocabulary.py": (OPEN, SEM_SEG, REPORT),
    "wps_sam/evaluation/part_detection.py": (PARTS, OPEN, REPORT, SEM_SEG, "tests/evaluation/test_protocols.py"),
    "wps_sam/evaluation/part_sem_seg.py": (SEM_SEG, OPEN),
    "wps_sam/evaluation/pascal_sq.py": ("tests/evaluation/test_pascal_sq.py", REPORT, SEM_SEG),
}
LEAST_NOTICED = 0.95
# What tests import and what takes long to import; the rest is ours.
HEAVY = ("torch", "torchvision.ops", "numpy", "scipy.optimize", "scipy.ndimage", "scipy.io", "cv2", "PIL.Image", "yaml")
HEAVY += ("pycocotools.cocoeval", "fvcore.transforms", "safetensors.torch", "segment_anything.modeling")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider")
MEMORY_BYTES = 3 << 30


# --- the changes

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.LShift: ast.RShift, ast.RShift: ast.LShift},
}
BUILTINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
NAMES = {"min": "max", "any": "all", "argmin": "argmax", "floor": "ceil", "sum": "mean", "minimum": "maximum"}
NAMES |= {"zeros": "ones", "zeros_like": "ones_like", "new_zeros": "new_ones"}
NAMES |= {changed: name for name, changed in NAMES.items()}
TEXTS = {"mean": "sum", "bilinear": "nearest", "ij": "xy"}


@dataclass(frozen=True)
class Mutant:
    """One change of a file: a node of its syntax tree, and what takes its place."""

    path: str
    function: str
    # Of the statement it is in, for a block those before its body.
    lines: range
    tree: ast.Module
    node: Any
    changed: ast.AST

    def code(self) -> CodeType:
        """Of the whole module."""
        memo: dict[int, Any] = {id(self.node): ast.copy_location(copy.deepcopy(self.changed), self.node)}
        tree = ast.fix_missing_locations(copy.deepcopy(self.tree, memo))
        return compile(tree, str(ROOT / self.path), "exec")

    @property
    def change(self) -> str:
        after = "" if isinstance(self.changed, ast.Pass) else ast.unparse(self.changed)
        return " ".join(f"{ast.unparse(self.node)} -> {after}".split())

    @property
    def source(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8").splitlines()[self.node.lineno - 1].strip()

    @property
    def key(self) -> str:
        """By which a list knows it again when lines above it come and go."""
        return f"{self.path} | {self.function} | {self.source} | {self.change}"


def mutants(path: str) -> list[Mutant]:
    """Every change of a file, in the order of its lines."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    made = [
        Mutant(path, function, _lines(statement), tree, replaced, changed)
        for node, function, statement in _visited(tree, "", None)
        for replaced, changed in _replacements(node)
    ]
    return sorted(made, key=lambda mutant: mutant.node.lineno)


def _visited(node: ast.AST, function: str, statement: Any) -> Iterator[tuple[ast.AST, str, Any]]:
    """What can be changed to some effect, the function and the statement it is in: no annotations, documentation,
    messages of errors or words of a log."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or _is_text(node):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_words(child):
                continue
            inside, within = function, child if isinstance(child, ast.stmt) else statement
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inside = f"{function}.{child.name}".lstrip(".")
            yield child, inside, within
            if not isinstance(child, ast.Raise | ast.JoinedStr):
                yield from _visited(child, inside, within)


def _lines(statement: Any) -> range:
    body = getattr(statement, "body", None)
    return range(statement.lineno, body[0].lineno if body else statement.end_lineno + 1)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_words(node: ast.AST) -> bool:
    """Of a log, of an assertion, or a name for a type."""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith(("Callable[", "Literal[", "Mapping[")):
        return True
    call = node.value if isinstance(node, ast.Expr) else node
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("logger.", "logging."))


def _replacements(node: Any) -> Iterator[tuple[ast.AST, ast.AST]]:
    """A node, or one below it, and what can take its place."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            ops = [*node.ops[:i], COMPARISONS[type(operator)](), *node.ops[i + 1 :]]
            yield node, ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        other = copy.copy(node)
        other.op = OPERATORS[type(node.op)]()
        yield node, other
    elif isinstance(node, ast.BoolOp):
        yield node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node, node.operand
    elif isinstance(node, ast.Constant):
        for value in _other_values(node.value):
            yield node, ast.Constant(value)
    elif isinstance(node, ast.Name) and node.id in BUILTINS:
        yield node, ast.Name(BUILTINS[node.id], node.ctx)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield node, ast.Attribute(node.value, NAMES[node.attr], node.ctx)
    elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and node.value.value in TEXTS:
        yield node.value, ast.Constant(TEXTS[node.value.value])
    elif isinstance(node, ast.Return) and node.value and not _is_none(node.value):
        yield node, ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Raise | ast.Continue | ast.Break) or _is_call(node):
        yield node, ast.Pass()
    if isinstance(node, ast.If | ast.IfExp) and isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _other_values(value: object) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        # The last place in that of the first would often be the same one.
        return [value + 1, value - 1] if value else [1]
    if isinstance(value, float):
        return [value * 2, value / 2] if value else [1.0]
    return []


def equivalents() -> dict[str, str]:
    """Reasons, by :attr:`Mutant.key`: lines of ``path | function | source line | change | reason``."""
    lines = (line for line in EQUIVALENTS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#")
    return {key: reason for key, _, reason in (line.rpartition(" | ") for line in lines)}


# --- code of functions that are there already


def functions(code: CodeType) -> dict[tuple[int, str], CodeType]:
    """The functions of a module and of its classes, by line and name; those inside of functions are theirs."""
    found: dict[tuple[int, str], CodeType] = {}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & inspect.CO_OPTIMIZED:
                found[inner.co_firstlineno, inner.co_name] = inner
            else:
                found.update(functions(inner))
    return found


def outside_functions(code: CodeType) -> object:
    """What a module does when it is imported, to be compared."""
    consts = [
        (inner.co_firstlineno, inner.co_name, outside_functions(inner) if not inner.co_flags & 1 else None)
        if isinstance(inner, CodeType)
        else repr(inner)
        for inner in code.co_consts
    ]
    return code.co_code, code.co_names, consts


Live = dict[tuple[int, str], list[FunctionType]]


def live_functions(file: str) -> Live:
    """The functions of a file that this process has made, whatever they are wrapped in."""
    found: defaultdict[tuple[int, str], list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename == file:
            found[thing.__code__.co_firstlineno, thing.__code__.co_name].append(thing)
    return found


def exchange(live: Live, before: CodeType, after: CodeType) -> bool:
    """Puts a module's change into its functions; whether that can be done."""
    old, new = functions(before), functions(after)
    changed = [key for key in old if old[key] != new[key]]
    if not changed or any(old[key].co_freevars != new[key].co_freevars or key not in live for key in changed):
        return False
    for key in changed:
        for function in live[key]:
            function.__code__ = new[key]
    return True


# --- processes


def forked(work: Callable[[], Any], seconds: float) -> Any:
    """What ``work`` returns in a fork, fit for JSON; None where that ends otherwise or computes for longer."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")
        pid = os.fork()
        if pid == 0:
            try:
                os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.tempdir = folder
                _limit(seconds)
                answer.write_text(json.dumps(work()))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        return json.loads(answer.read_text()) if answer.is_file() else None


def _limit(seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, resource.RLIM_INFINITY))
    # For those that wait for ever; other work may share the processor.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(10 * seconds) + 60)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, resource.RLIM_INFINITY))


def silently() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


class Anew(importlib.machinery.SourceFileLoader):
    """Imports a module with a change in it."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.path.removesuffix(".py").replace("/", "."), str(ROOT / mutant.path))
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return self.mutant.code()


def run_anew(mutant: Mutant, tests: Sequence[str]) -> str:
    silently()
    sys.meta_path.insert(0, Anew(mutant))  # type: ignore[arg-type]
    return "unnoticed" if pytest.main([*OPTIONS, *tests]) == pytest.ExitCode.OK else "noticed"


class Watched:
    """A pytest plugin: runs the collected tests as they are, and then, for each change, those that run its lines."""

    def __init__(self, path: str, chosen: Sequence[Mutant]) -> None:
        self.file, self.chosen = str(ROOT / path), chosen
        # Lines that ran on import; in a fixture that several tests share; in a test, by its place.
        self.imported: set[int] = set()
        self.shared: set[int] = set()
        self.by_test: defaultdict[int, set[int]] = defaultdict(set)
        self.now = self.imported
        self.failures: list[str] = []
        self.outcomes: list[str] = []
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != self.file:
            return None
        self.now.add(frame.f_lineno)
        return self._trace

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        before, self.now = self.now, self.now if fixturedef.scope == "function" else self.shared
        try:
            return (yield)
        finally:
            self.now = before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.now = self.by_test[self.items.index(item)]
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failures.append(f"{report.nodeid}: {report.longreprtext[-2000:]}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = list(session.items)
        watched = forked(lambda: self._watch(session), 600)
        self.failures = ["its process ended"] if watched is None else watched["failures"]
        if self.failures:
            return True
        sys.settrace(None)
        before = compile(ast.parse(Path(self.file).read_bytes()), self.file, "exec")
        live = live_functions(self.file)
        # Forks would copy what the collector touches.
        gc.freeze()
        ran = {place: set(lines) for place, lines in watched["by_test"]}
        for mutant in self.chosen:
            after = mutant.code()
            if self.imported.intersection(mutant.lines) or outside_functions(after) != outside_functions(before):
                self.outcomes.append("anew")
                continue
            everywhere = not set(watched["shared"]).isdisjoint(mutant.lines)
            items = [
                item
                for place, item in enumerate(self.items)
                if everywhere or not ran.get(place, set()).isdisjoint(mutant.lines)
            ]
            if items:
                work = partial(self._try, session, items, live, before, after)
                self.outcomes.append(forked(work, 3 * watched["seconds"] + 5) or "noticed")
            else:
                self.outcomes.append("not run")
        return True

    def _watch(self, session: pytest.Session) -> dict[str, Any]:
        begin = time.process_time()
        if not self._passes(session) and not self.failures:
            self.failures = ["before any test"]
        by_test = [(place, sorted(lines)) for place, lines in self.by_test.items()]
        seconds = time.process_time() - begin
        return {"failures": self.failures, "seconds": seconds, "shared": sorted(self.shared), "by_test": by_test}

    def _try(
        self, session: pytest.Session, items: list[pytest.Item], live: Live, before: CodeType, after: CodeType
    ) -> str:
        if not exchange(live, before, after):
            return "anew"
        session.items = items
        return "unnoticed" if self._passes(session) else "noticed"

    def _passes(self, session: pytest.Session) -> bool:
        try:
            run_collected(session)
        except BaseException:
            return False
        return not session.testsfailed


def outcomes(path: str, chosen: Sequence[Mutant]) -> list[str]:
    """What became of each change: "noticed", "unnoticed", or "not run", if no test does.

    Raises:
        ValueError: the tests fail without any change.
    """

    def work() -> dict[str, list[str]]:
        silently()
        watched = Watched(path, chosen)
        pytest.main([*OPTIONS, *GUARDS[path]], plugins=[watched])
        return {"outcomes": watched.outcomes, "failures": watched.failures}

    answer = forked(work, 10**6) or {"outcomes": [], "failures": ["their process ended"]}
    found = answer["outcomes"]
    if len(found) < len(chosen):
        raise ValueError(f"{path}: its tests fail without any change: {' '.join(answer['failures'])}")
    seconds = 300
    return [
        outcome if outcome != "anew" else forked(partial(run_anew, mutant, GUARDS[path]), seconds) or "noticed"
        for mutant, outcome in zip(chosen, found)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", choices=GUARDS, default=list(GUARDS), metavar="FILE")
    parser.add_argument("--sample", type=int, help="how many changes of each file; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    args = parser.parse_args()
    os.chdir(ROOT)
    for name in HEAVY:
        importlib.import_module(name)
    reasons, noticed, total = equivalents(), 0, 0
    for path in args.files:
        begin = time.perf_counter()
        made = [mutant for mutant in mutants(path) if mutant.key not in reasons]
        if args.sample is not None and args.sample < len(made):
            places = random.Random(f"{args.seed} {path}").sample(range(len(made)), args.sample)
            made = [made[place] for place in sorted(places)]
        found = outcomes(path, made)
        of_file = found.count("noticed")
        noticed, total = noticed + of_file, total + len(made)
        took = time.perf_counter() - begin
        print(f"{path}: {of_file} of {len(made)} noticed, {of_file / len(made):.1%}, {took:.0f} s", flush=True)
        for mutant, outcome in zip(made, found):
            if outcome != "noticed":
                print(f"    {mutant.node.lineno}: {mutant.change}, {outcome}: {mutant.source}", flush=True)
    print(f"all: {noticed} of {total} noticed, {noticed / total:.1%}")
    return int(noticed < LEAST_NOTICED * total)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
