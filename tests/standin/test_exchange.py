"""What one of Detectron2 and its stand-in writes, the other reads."""

from __future__ import annotations

import wps_sam  # isort: skip  # noqa: F401

import importlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import detectron2
import pytest
import torch
from cases import Modules, regression_trainer
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "golden"


def standin(module: str) -> ModuleType:
    return importlib.import_module(f"wps_sam.standin.{module}")


def real(module: str) -> ModuleType:
    if detectron2.__version__.endswith("+wps.sam"):
        pytest.skip("Detectron2 is not installed")
    return importlib.import_module(f"detectron2.{module}")


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def undisturbed(folder: Path) -> Any:
    trainer, _ = regression_trainer(standin, folder)
    trainer.train(0, 10)
    return trainer


def resumed(d2: Modules, checkpoint: Path, folder: Path) -> Any:
    trainer, checkpointer = regression_trainer(d2, folder, first_batch=4)
    left = checkpointer.load(str(checkpoint))
    assert left["iteration"] == trainer.iter == 3
    trainer.train(trainer.iter + 1, 10)
    return trainer


def test_a_run_of_detectron2_is_continued(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = undisturbed(tmp_path / "whole")
    trainer = resumed(standin, GOLDEN / "checkpoint.pth", tmp_path)
    assert torch.allclose(weights(trainer), weights(whole), atol=1e-7)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(whole.optimizer.param_groups[0]["lr"])


def test_detectron2_continues_a_run_of_the_standin(tmp_path: Path) -> None:
    real("engine")
    (tmp_path / "whole").mkdir()
    whole = undisturbed(tmp_path / "whole")
    trainer = resumed(real, tmp_path / "whole" / "model_0000003.pth", tmp_path)
    assert torch.allclose(weights(trainer), weights(whole), atol=1e-7)


def test_the_config_file_of_detectron2_is_read() -> None:
    """It has all of Detectron2's keys, many of them unknown here."""
    cfg = standin("config").get_cfg()
    cfg.merge_from_file(str(GOLDEN / "config.yaml"))
    assert cfg.SOLVER.MAX_ITER == 123 and cfg.DATASETS.TRAIN == ("a",)
    assert "RPN" not in cfg.MODEL


def test_detectron2_reads_the_config_file_of_the_standin(tmp_path: Path) -> None:
    theirs = real("config").get_cfg()
    cfg = standin("config").get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", "123", "DATASETS.TRAIN", "('a',)", "SOLVER.WEIGHT_DECAY_BIAS", "0.5"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    theirs.merge_from_file(str(tmp_path / "config.yaml"))
    assert theirs.SOLVER.MAX_ITER == 123 and theirs.DATASETS.TRAIN == ("a",)
    assert theirs.SOLVER.WEIGHT_DECAY_BIAS == 0.5


def test_a_config_file_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(Exception, match="python/object/apply"):
        standin("config").get_cfg().merge_from_file(str(path))
    path.write_text("NO_SUCH_KEY: 1\n")
    with pytest.raises(KeyError, match="NO_SUCH_KEY"):
        standin("config").get_cfg().merge_from_file(str(path))
    path.write_text("VERSION: 1\n")
    with pytest.raises(ValueError, match=r"bad\.yaml: config VERSION is 1, expected 2"):
        standin("config").get_cfg().merge_from_file(str(path))
    with pytest.raises(ValueError, match="absent"):
        standin("config").get_cfg().merge_from_file(str(tmp_path / "absent.yaml"))


class Bomb:
    def __reduce__(self) -> tuple[Callable, tuple]:
        return print, ("boom",)


def test_weights_come_from_safetensors_and_bare_state_dicts_but_not_from_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, wanted = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    checkpointer = standin("checkpoint").DetectionCheckpointer(model, str(tmp_path))
    state = wanted.state_dict()
    save_file(state, str(tmp_path / "w.safetensors"))
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "ddp.pth")
    for name in ("w.safetensors", "bare.pth", "ddp.pth"):
        torch.nn.init.zeros_(model.weight)
        checkpointer.load(str(tmp_path / name))
        assert torch.equal(model.weight, wanted.weight), name
    for name, data in (
        ("bomb.pth", pickle.dumps({"model": Bomb()})),
        ("bomb.pkl", pickle.dumps(Bomb())),
        ("cut.pth", (tmp_path / "bare.pth").read_bytes()[:-200]),
        ("text.pth", b"no weights"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            checkpointer.load(str(tmp_path / name))
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("d2", [standin, real], ids=["standin", "detectron2"])
def test_metrics_have_one_form(tmp_path: Path, d2: Modules) -> None:
    trainer, _ = regression_trainer(d2, tmp_path)
    trainer.train(0, 10)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert all(isinstance(line["iteration"], int) for line in lines)
    assert {"lr", "total_loss", "data_time", "loss_square"} <= set(lines[0])
