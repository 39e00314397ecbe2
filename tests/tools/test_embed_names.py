"""tools/embed_names.py from the command line to its file, with a tiny CLIP."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from wps_sam.text_embeddings import TextEmbeddings

import pytest
from text_encoders import write_clip

TOOL = Path(__file__).resolve().parents[2] / "tools" / "embed_names.py"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture
def run(tiny_model: Any, clip: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``run("--output", path, ...)``: the tool on the tiny data set with the tiny CLIP; returns its exit code."""
    config = tmp_path_factory.mktemp("config") / "text.yaml"
    config.write_text(f"_BASE_: {tiny_model.config_file}\nMODEL: {{TEXT: {{ENCODER: {clip}}}}}\n")
    tool = runpy.run_path(str(TOOL))["main"]
    return lambda *arguments: tool(["--config-file", str(config), *map(str, arguments)])


def test_names_of_the_data_sets_are_embedded(
    run: Any, tiny_parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training and test set have the same three names; each comes once."""
    output = tmp_path / "names.safetensors"
    assert run("MODEL.TEXT.EMBEDDINGS", output, "MODEL.TEXT.TEMPLATES", "['a {}', 'the {}.']") == 0
    embeddings = TextEmbeddings.read(output)
    assert embeddings.names == tiny_parts.classes
    assert embeddings.templates == ("a {}", "the {}.")
    assert f"{output}: 3 names, 8 numbers each" in capsys.readouterr().out
    first = output.read_bytes()
    assert len(first) < 1000
    assert run("--output", output, "MODEL.TEXT.TEMPLATES", "['a {}', 'the {}.']") == 0
    assert output.read_bytes() == first


def test_further_names_are_added(run: Any, tiny_parts: Any, tmp_path: Path) -> None:
    output = tmp_path / "names.safetensors"
    more = ("--names", "bird's beak", "Car Body", "bird's eye", "--output", output)
    assert run("MODEL.TEXT.TEMPLATES", "['the {}']", *more) == 0
    embeddings = TextEmbeddings.read(output)
    # And the words that they are made of, for objects and parts that are named apart.
    assert embeddings.names == (*tiny_parts.classes, "bird's beak", "bird's eye", "bird", "beak", "eye")
    assert embeddings.templates == ("the {}",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "beak", "beak"], "more than once: ['beak']"),
        (["--names", "beak", "MODEL.TEXT.TEMPLATES", "['{}']"], "--names holds the config key 'MODEL.TEXT.TEMPLATES'"),
        (["MODEL.TEXT.TEMPLATES", "['a photo']"], "MODEL.TEXT.TEMPLATES: expected"),
        (["DATASETS.TEST", "('nowhere',)"], "DATASETS names 'nowhere', which is not registered"),
    ],
)
def test_a_refused_command_leaves_the_old_file_alone(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output = tmp_path / "names.safetensors"
    output.write_bytes(b"old")
    assert run("--output", output, *arguments) == 2
    assert message in capsys.readouterr().err
    assert output.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_the_output_and_the_encoder_must_be_named(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "MODEL.TEXT.EMBEDDINGS is empty" in capsys.readouterr().err
    assert run("--output", tmp_path / "names.safetensors", "MODEL.TEXT.ENCODER", tmp_path / "nowhere") == 2
    assert f"MODEL.TEXT.ENCODER is '{tmp_path / 'nowhere'}'; expected a CLIP" in capsys.readouterr().err
