"""The command line: subcommands, help at once, and every mistake of a user's in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from wps_sam import cli
from wps_sam.benchmark import SUBJECTS, VARIANTS
from wps_sam.cli import COMMANDS, benchmark, cache, image_level, main, parse, run_command
from wps_sam.data.feature_store import DTYPES
from wps_sam.image_level.run import KINDS
from wps_sam.image_level.words import TASKS
from wps_sam.paths import check_overrides

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a subcommand can't do without; the files exist nowhere.
REQUIRED = {
    "predict": ["photo.jpg"],
    "app": [],
    "label-studio": [],
    "export": ["--output", "model.onnx"],
    "report": ["RUN"],
    "check": ["my_parts.yaml", "--output", "page.html"],
    "import": ["labels", "--name", "n", "--output", "o"],
    "synthetic": [],
    "weaken": ["--dataset", "a", "--name", "b", "--output", "c"],
    "download": [],
    "convert": ["--from", "sam", "in.pth", "out.pth"],
    "prompts": ["--dataset", "synthetic"],
    "image-level": ["tags", "--config-file", "c.yaml", "--run", "r"],
    "pretrain": ["--output-dir", "o"],
    "distill": ["--output-dir", "o"],
    "benchmark": ["encoder"],
}


def python(*command: str, cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """What it printed, and the seconds of processor time that it took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = os.times()
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    after = os.times()
    return done, after.children_user + after.children_system - before.children_user - before.children_system


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a mistake is told in."""
    try:
        code = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_loads_nothing_heavy(name: str | None, tmp_path: Path) -> None:
    program = "import sys, wps_sam.cli\ntry:\n    wps_sam.cli.main(sys.argv[1:])\nfinally:\n"
    program += (
        "    print(*{m.partition('.')[0] for m in sys.modules} & {'torch', 'numpy', 'detectron2', 'yaml', 'PIL'})"
    )
    done, seconds = python("-c", program, *([name] if name else []), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: wps-sam{f' {name}' if name else ' [-h]'}") and not done.stderr
    assert done.stdout.splitlines()[-1] == "" and seconds < 1


def test_the_list_of_subcommands_is_that_of_the_modules(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"  {name:<12} {command.summary}\n" in printed for name, command in COMMANDS.items())
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "arguments"}
    assert {command.module for command in COMMANDS.values()} == modules


def test_tools_and_modules_are_the_same_subcommands(tmp_path: Path) -> None:
    for command in (["-m", "wps_sam", "train"], [str(ROOT / "tools" / "train_net.py")]):
        assert python(*command, "--help", cwd=tmp_path)[0].stdout.startswith("usage: wps-sam train ")
    done, _ = python("-m", "wps_sam.image_level", "--help", cwd=tmp_path)
    assert done.stdout.startswith("usage: wps-sam image-level ")


def test_choices_that_stand_in_both_places_agree() -> None:
    assert sorted(benchmark.SUBJECTS) == sorted(SUBJECTS) and sorted(benchmark.VARIANTS) == sorted(VARIANTS)
    assert list(cache.FORMATS) == list(DTYPES)
    assert image_level.KINDS == KINDS
    assert image_level.WORDS == tuple(dict.fromkeys(task for tasks in TASKS.values() for task in tasks))


# ------------------------------------------------------------------ arguments


def test_overrides_and_options_may_stand_in_any_order() -> None:
    args = parse("train", ["MODEL.DEVICE", "cpu", "--config-file", "F", "--eval-only", "MODEL.WEIGHTS", "w.pth"])
    assert args.eval_only and args.opts == ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "w.pth"]
    args = parse("predict", ["a.jpg", "--opts", "MODEL.DEVICE", "cpu", "--output", "X"])
    assert args.opts == ["MODEL.DEVICE", "cpu"] and args.output == Path("X") and args.inputs == ["a.jpg"]
    assert parse("eval", ["--config-file", "F"]).eval_only
    assert parse("pretrain", ["--output-dir", "o o", "seed=1"]).command == "wps-sam pretrain --output-dir 'o o' seed=1"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_tells_a_misspelt_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = REQUIRED.get(name, ["--config-file", "F"])
    assert "--debgu (did you mean --debug?)" in told(capsys, name, *needed, "--debgu")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: SUBCOMMAND; wps-sam --help explains"),
        (["trian"], "no subcommand 'trian' (did you mean train?)"),
        (["train"], "required: --config-file"),
        (["benchmark", "encodr"], "invalid choice: 'encodr'"),
        (["train", "--config-file", "F", "--num-gpus", "two"], "--num-gpus: invalid int value: 'two'"),
        (["train", "--config-file", "nowhere.yaml"], "config nowhere.yaml: the file does not exist"),
        (["pretrain", "--output-dir", "o", "--config-file", "nowhere.yaml"], "nowhere.yaml: the file does not exist"),
        (["convert", "--from", "wps-sam", "a", "b"], "--from wps-sam needs --sam-output"),
        (["predict", "a.jpg", "--confidence", "40"], "--confidence: expected a number from 0 to 1, got 40"),
        (["predict", "a.jpg", "--weights", "nowhere.pth"], "--weights: nowhere.pth: the file does not exist"),
        (["predict", "nowhere.jpg"], "nowhere.jpg: no such picture, video or folder"),
        (
            ["prompts", "--dataset", "synthetc", "--arch", "vit_tiny"],
            "synthetc: no such data set (did you mean synthetic?)",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in told(capsys, *argv)


def test_a_finished_run_is_refused_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("log.txt", "model_final.pth"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "c.yaml").write_text("OUTPUT_DIR: run")
    program = (
        "import sys, wps_sam.cli\nprint(wps_sam.cli.main(['train', '--config-file', 'c.yaml']), 'torch' in sys.modules)"
    )
    done, _ = python("-c", program, cwd=tmp_path)
    assert done.stdout == "2 False\n"
    assert done.stderr.startswith(
        "error: run: OUTPUT_DIR holds a finished run, which would be written over: choose another"
    )


def test_overrides_are_looked_at_before_anything_heavy_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"""DESCRIPTIONS: expected a list, '\["my\.yaml"\]', got my\.yaml"""):
        check_overrides(["DATASETS.DESCRIPTIONS", "my.yaml"])
    with pytest.raises(ValueError, match="expected KEY VALUE pairs, but 'SEED' stands alone"):
        check_overrides(["SEED"])
    for fine in ('["my.yaml"]', "('my.yaml',)", ["my.yaml"]):
        check_overrides(["SEED", "1", "DATASETS.DESCRIPTIONS", fine])


def test_debug_shows_the_trace() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        run_command("train", ["--config-file", "nowhere.yaml", "--debug"])


def test_export_offers_what_files_can_be() -> None:
    from typing import get_args

    from wps_sam.cli import export
    from wps_sam.export import files

    assert get_args(files.Format) == export.FORMATS and get_args(files.Precision) == export.PRECISIONS


def test_predict_offers_what_results_can_write() -> None:
    from wps_sam.cli.predict import KINDS
    from wps_sam.prediction import results

    assert KINDS == results.KINDS
