"""Checkpoints: whole or not there, plain data only, and fitting the model."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import subprocess
import sys

from wps_sam.checkpointer import (
    SafeCheckpointer,
    check_numbers,
    process_lives,
    remove_leftovers,
    to_safetensors,
    what_it_is,
    write_atomically,
)

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


def test_another_models_checkpoint_is_refused_only_when_strict(tmp_path, caplog):
    SafeCheckpointer(nn.Linear(2, 5), str(tmp_path)).save("other")
    path = str(tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: .*weight \(5, 2\) instead of \(3, 2\)"):
        SafeCheckpointer(nn.Linear(2, 3), strict=True).load(path)
    with caplog.at_level(logging.WARNING):
        SafeCheckpointer(nn.Linear(2, 3)).load(path)
    # What was left out is said.
    assert "weight" in caplog.text and "(5, 2)" in caplog.text


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


def test_processes_that_write_one_file_at_once_have_a_temporary_one_each(tmp_path, monkeypatch):
    names = []
    for pid in (11, 12):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        write_atomically(tmp_path / "a.json", lambda file: names.append(file.name))
    assert names == [str(tmp_path / f"a.json.{pid}.tmp") for pid in (11, 12)]
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    # No process has such numbers.
    dead = [f"model.pth.{pid}.tmp" for pid in (2**30, 10**30, os.getpid())]
    living = subprocess.Popen(["sleep", "60"])
    kept = [f"model.pth.{living.pid}.tmp", "notes.tmp", ".7.tmp", "model.pth", f"model.pth.{2**30}.tmp.txt"]
    for name in [*dead, *kept]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    living.kill()
    living.wait()
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    remove_leftovers(tmp_path / "not_there")
    # Another process may remove it first.
    (tmp_path / dead[0]).touch()
    monkeypatch.setattr("wps_sam.checkpointer.process_lives", lambda pid: (tmp_path / dead[0]).unlink())
    for name in kept:
        (tmp_path / name).unlink()
    remove_leftovers(tmp_path)


def test_a_process_of_somebody_else_lives(monkeypatch):
    def refuse(pid, signum):
        assert signum == 0
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert process_lives(1) is True and process_lives(os.getpid()) is False
    monkeypatch.undo()
    assert process_lives(2**30) is False


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_the_disk_says_has_the_files_name(tmp_path, wrapped):
    def write(file):
        try:
            raise OSError(errno.ENOSPC, "no space")
        except OSError:
            # As torch.save, whose own error hides the reason.
            if wrapped:
                raise RuntimeError("unexpected position") from None
            raise

    with pytest.raises(OSError, match=r"No space left on device, the file could not be written: .*model\.pth"):
        write_atomically(tmp_path / "model.pth", write)
    with pytest.raises(RuntimeError, match="of its own"):
        write_atomically(tmp_path / "model.pth", lambda file: raise_error(RuntimeError("of its own")))
    assert os.listdir(tmp_path) == []


def raise_error(error):
    raise error


def test_only_the_main_process_saves(tmp_path):
    other = SafeCheckpointer(nn.Linear(2, 3), str(tmp_path), save_to_disk=False)
    other.save("model_final")
    other.save_weights("best", {})
    assert os.listdir(tmp_path) == [] and other.last_saved == ""
    nowhere = SafeCheckpointer(nn.Linear(2, 3), "", save_to_disk=True)
    nowhere.save("model_final")
    nowhere.save_weights("best", {})
    main = SafeCheckpointer(nn.Linear(2, 3), str(tmp_path), save_to_disk=True)
    main.save_weights("best", {"class_names": ["ear"]})
    # They are to be used, not to be continued from.
    assert os.listdir(tmp_path) == ["best.pth"]
    main.save("model_final")
    assert sorted(os.listdir(tmp_path)) == ["best.pth", "last_checkpoint", "model_final.pth"]
    assert main.last_saved == "model_final"
    assert SafeCheckpointer.read(str(tmp_path / "best.pth"))["trainer"] == {"class_names": ["ear"]}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"weight": torch.ones(5, 2), "bias": torch.ones(3)},
            r"other shapes \['weight \(5, 2\) instead of \(3, 2\)'\]",
        ),
        ({"weight": torch.ones(3, 2)}, r"missing \['bias'\], unexpected \[\], other shapes \[\]"),
        (
            {"weight": torch.ones(3, 2), "bias": torch.ones(3), "more": torch.ones(1)},
            r"missing \[\], unexpected \['more'\], other shapes \[\]",
        ),
    ],
)
def test_each_misfit_alone_is_refused_when_strict(tmp_path, state, message):
    torch.save({"model": state}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth: does not fit the model that the config describes: .*{message}"):
        SafeCheckpointer(nn.Linear(2, 3), strict=True).load(str(tmp_path / "other.pth"))
    loose = SafeCheckpointer(nn.Linear(2, 3))
    loose.load(str(tmp_path / "other.pth"))
    assert loose.loaded == str(tmp_path / "other.pth")


def test_the_newest_checkpoint_that_can_be_read_is_taken(tmp_path, caplog):
    caplog.set_level("WARNING")  # not what is saved
    checkpointer = SafeCheckpointer(nn.Linear(2, 3), str(tmp_path))
    assert checkpointer.get_checkpoint_file() == ""
    first, second, third, later = paths = [tmp_path / f"model_{i:07d}.pth" for i in (1, 3, 5, 9)]
    for path in paths:
        checkpointer.save(path.stem)
    # The last one is of another run, over which this one was begun.
    checkpointer.tag_last_checkpoint(third.name)
    assert checkpointer.get_checkpoint_file() == str(third) and not caplog.text
    third.write_bytes(third.read_bytes()[:100])
    assert checkpointer.get_checkpoint_file() == str(second)
    assert f"Taking the checkpoint before it, {second}" in caplog.text and "model_0000005.pth: not a" in caplog.text
    # Behind the end of a run all numbered ones are before it.
    checkpointer.save("model_final")
    (tmp_path / "model_final.pth").write_bytes(b"")
    assert checkpointer.get_checkpoint_file() == str(later)
    for path in (first, second, later):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model_final\.pth: not a readable checkpoint.*this is an empty file"):
        checkpointer.get_checkpoint_file()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"\n <!DOCTYPE html><p>", "a web page"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b' {"error": 1}', "JSON"),
        (b"[1]", "JSON"),
        (b"PK\x03\x04", None),
    ],
)
def test_what_is_in_a_checkpoints_place_is_told(tmp_path, content, told):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    found = what_it_is(path)
    assert found is None if told is None else found.startswith(told)
    with pytest.raises(ValueError, match=f"this is {told or 'neither'}"):
        SafeCheckpointer.read(str(path))


def test_a_sam_is_not_taken_for_a_part_model(tmp_path):
    for name in ("image_encoder.patch_embed.weight", "mask_decoder.iou_token.weight"):
        torch.save({name: torch.ones(1), "prompt_encoder.weight": torch.ones(1)}, tmp_path / "sam.pth")
        with pytest.raises(ValueError, match=r"sam\.pth: is a SAM, expected a trained part model; MODEL.SAM.WEIGHTS"):
            SafeCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "sam.pth"))


@pytest.mark.parametrize(
    ("content", "kind"), [([1], "list"), ({"model": 7}, "int"), ({1: torch.ones(1), "a": torch.ones(1)}, "dict")]
)
def test_what_holds_no_weights_is_refused(tmp_path, content, kind):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"model\.pth: expected a dict of weights, got {kind}"):
        SafeCheckpointer.read(str(tmp_path / "model.pth"))


def test_weights_alone_and_weights_of_another_kind_that_fit(tmp_path):
    state = {**nn.Linear(2, 3).state_dict(), "steps": torch.tensor(7), "note": "text"}
    torch.save(state, tmp_path / "bare.pth")
    assert list(SafeCheckpointer.read(str(tmp_path / "bare.pth"))) == ["model"]
    # Whole numbers are refused only where the model's own are none; what is no tensor is not looked at.
    check_numbers(state, {**nn.Linear(2, 3).state_dict(), "steps": torch.tensor(0)}, "bare.pth")


def test_safetensors_say_what_they_were_trained_on(tmp_path):
    training = {"class_names": ["ear", "nose"], "exif": "upright", "made_by": None, "else": 1}
    state = {"weight": torch.arange(6.0).reshape(2, 3).T, "bias": torch.zeros(3)}
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(state, training))
    read = SafeCheckpointer.read(str(tmp_path / "a.safetensors"))
    assert read["trainer"] == {"class_names": ["ear", "nose"], "exif": "upright"}
    assert torch.equal(read["model"]["weight"], state["weight"])
    save_file({"weight": torch.ones(1)}, tmp_path / "b.safetensors")
    assert SafeCheckpointer.read(str(tmp_path / "b.safetensors"))["trainer"] == {}


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file it is")
def test_durable_files_and_their_folders_are_waited_for(tmp_path, monkeypatch):
    waited, sizes = [], []

    def wait(handle):
        waited.append(os.readlink(f"/proc/self/fd/{handle}"))
        sizes.append(os.fstat(handle).st_size)

    monkeypatch.setattr(os, "fsync", wait)
    handles = len(os.listdir("/proc/self/fd"))
    write_atomically(tmp_path / "a", lambda file: file.write(b"1"))
    # All of it was out of Python's hands by then, and no folder is left open.
    assert sizes[0] == 1 and len(os.listdir("/proc/self/fd")) == handles
    assert waited == [str(tmp_path / f"a.{os.getpid()}.tmp"), str(tmp_path)]
    write_atomically(tmp_path / "b", lambda file: file.write(b"1"), durable=False)
    assert len(waited) == 2
