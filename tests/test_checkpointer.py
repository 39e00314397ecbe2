"""Checkpoints: whole or not there, plain data only, and fitting the model."""

from __future__ import annotations

import os
import pickle

from wps_sam.checkpointer import SafeCheckpointer, write_atomically

import pytest
import torch
from safetensors.torch import save_file
from torch import nn


class Exploit:
    """Pickles as a call of os.mkdir: a harmless stand-in for any code an attacker wants to run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pth"]


def test_save_and_load(tmp_path):
    saved, loaded = nn.Linear(2, 3), nn.Linear(2, 3)
    SafeCheckpointer(saved, str(tmp_path)).save("model_0000004", iteration=4)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000004.pth"]
    rest = SafeCheckpointer(loaded, str(tmp_path), strict=True).resume_or_load("")
    assert rest["iteration"] == 4
    assert torch.equal(saved.weight, loaded.weight)


def test_safetensors(tmp_path):
    path = str(tmp_path / "model.safetensors")
    save_file({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, path)
    model = nn.Linear(2, 3)
    SafeCheckpointer(model, strict=True).load(path)
    assert model.weight.sum() == 6


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, suffix):
    trace, path = tmp_path / "ran", tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save({"model": Exploit(str(trace))}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Exploit(str(trace))}))
    with pytest.raises(ValueError, match=rf"model\.{suffix}: not a readable checkpoint"):
        SafeCheckpointer(nn.Linear(2, 3)).load(str(path))
    assert not trace.exists()


def test_a_changed_byte_is_noticed(tmp_path):
    """PyTorch reads such a file without a word, and other numbers."""
    path = tmp_path / "model.pth"
    torch.save({"model": {"weight": torch.ones(500)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(2).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["weight"], torch.ones(500))
    with pytest.raises(ValueError, match=r"model\.pth: not a readable checkpoint.*the checksum of .* does not fit"):
        SafeCheckpointer.read(str(path))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_cut_off_checkpoint_is_named(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save({"model": {"weight": torch.ones(500)}}, path)
    else:
        save_file({"weight": torch.ones(500)}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"model\.{suffix}: not a readable checkpoint"):
        SafeCheckpointer(nn.Linear(2, 3)).load(str(path))


def test_another_models_checkpoint_is_refused_only_when_strict(tmp_path):
    SafeCheckpointer(nn.Linear(2, 5), str(tmp_path)).save("other")
    path = str(tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: .*weight \(5, 2\) instead of \(3, 2\)"):
        SafeCheckpointer(nn.Linear(2, 3), strict=True).load(path)
    SafeCheckpointer(nn.Linear(2, 3)).load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.fill_(float("nan")), r"bad\.pth: weight: 6 of 6 weights are NaN or infinite"),
        (lambda w: w[0].fill_(float("inf")), r"bad\.pth: weight: 2 of 6 weights are NaN or infinite"),
        (lambda w: w.long(), r"bad\.pth: weight: expected floating point numbers, got torch\.int64"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, change, message):
    state = nn.Linear(2, 3).state_dict()
    changed = change(state["weight"])
    state["weight"] = state["weight"] if changed.shape != (3, 2) else changed
    torch.save({"model": state}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=message):
        SafeCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "bad.pth"))
