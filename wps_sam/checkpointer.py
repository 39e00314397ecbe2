"""Checkpoints that are never half written, never run code when read, and never fit by accident."""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors import safe_open
from safetensors.torch import load_file, save

logger = logging.getLogger(__name__)

# What weights say of their training, see SafeCheckpointer.read.
TRAINING = ("class_names", "exif", "made_by")


def write_atomically(path: str | Path, write: Callable[[BinaryIO], Any], durable: bool = True) -> None:
    """Calls ``write`` with a binary file that becomes ``path`` at once, or not at all.

    A reader, or a run resumed after a power cut, sees the old content or the new, never a part of it. Without
    ``durable`` it is not waited for the disk, and that holds of kills alone.

    Raises:
        OSError: names the file, of which the disk is full, for example.
    """
    # Several processes may make the same file at once, each a whole one; see remove_leftovers().
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.lexists(temporary):
            os.remove(temporary)
        # What the disk says has no name of a file, and torch.save puts its own error, without the reason, over it.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(reason, OSError) and reason.errno:
            raise OSError(reason.errno, f"{os.strerror(reason.errno)}, the file could not be written", path) from error
        raise
    if durable and os.name == "posix":
        # The new name itself is only safe once its folder is on disk.
        folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _check_bytes(path: str) -> None:
    """ValueError if a checksum of a .pth does not fit: torch.load does not look at them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not fit")


def remove_leftovers(folder: str | Path) -> None:
    """Removes what processes that no longer live left half written in a folder, if that is there."""
    for path in Path(folder).glob("*.tmp"):
        of_process = re.fullmatch(r".+\.(\d+)\.tmp", path.name)
        if of_process and not process_lives(int(of_process[1])):
            logger.info("%s: left half written by a process that was killed, is removed", path)
            path.unlink(missing_ok=True)


def process_lives(pid: int) -> bool:
    """Whether another process on this machine has this number; ours has left nothing behind yet."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def what_it_is(path: str | Path) -> str | None:
    """What a file is that was saved in a checkpoint's place, as downloads that failed are; None if nothing known."""
    with open(path, "rb") as file:
        beginning = file.read(1024).lstrip().lower()
    if not beginning:
        return "an empty file"
    if beginning.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page: the download was answered by a page, perhaps one to log in or to confirm; download it again"
    if beginning.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the file: fetch it with git lfs pull"
    if beginning.startswith((b"{", b"[")):
        return "JSON: perhaps the error message of a server, or an index of checkpoints in several files"
    return None


def check_not_sam(state: Mapping[str, Any], path: str) -> None:
    """Requires weights of a model of ours: a SAM alone, which checkpoints of ours do not hold, is often given instead.

    Raises:
        ValueError: names the key that takes it.
    """
    if any(name.startswith(("image_encoder.", "mask_decoder.")) for name in state):
        raise ValueError(
            f"MODEL.WEIGHTS {path}: is a SAM, expected a trained part model; MODEL.SAM.WEIGHTS takes SAMs. To train "
            "from the start leave MODEL.WEIGHTS empty"
        )


def check_numbers(state: Mapping[str, Any], own: Mapping[str, Any], path: str) -> None:
    """Requires weights that are numbers, and of the kind that the model's ``own`` are.

    A training that diverged, or a file that was cut and padded, would otherwise be evaluated to 0 without a word.

    Raises:
        ValueError: names the file and the tensor.
    """
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            continue
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise ValueError(f"{path}: {name}: {bad} of {value.numel()} weights are NaN or infinite")
        if name in own and own[name].is_floating_point() and not value.is_floating_point():
            raise ValueError(f"{path}: {name}: expected floating point numbers, got {value.dtype}")


def to_safetensors(state: Mapping[str, torch.Tensor], training: Mapping[str, Any]) -> bytes:
    """A .safetensors of which :meth:`SafeCheckpointer.read` gives back the weights and what they were trained on."""
    known = {key: json.dumps(training[key]) for key in TRAINING if training.get(key) is not None}
    return save({key: value.detach().cpu().contiguous() for key, value in state.items()}, metadata=known)


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, written atomically and read without unpickling code.

    Args:
        strict: refuse a checkpoint whose keys or shapes don't fit the model. Right for resuming and for
            evaluation; wrong for starting from weights trained on other classes, where Detectron2's warnings do.
    """

    def __init__(self, model: torch.nn.Module, save_dir: str = "", *, strict: bool = False, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        self.strict = strict
        # The name of the last file that save() wrote.
        self.last_saved = ""
        self._file = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes model, checkpointables and ``kwargs`` to ``save_dir/name.pth`` and marks it as the last one."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        self.tag_last_checkpoint(self._write(name, {**states, **kwargs}))
        self.last_saved = name

    def save_weights(self, name: str, trained_on: Mapping[str, Any]) -> None:
        """Writes the model alone to ``save_dir/name.pth``, to be used, not continued; ``trained_on`` as of read()."""
        if self.save_dir and self.save_to_disk:
            self._write(name, {"trainer": dict(trained_on)})

    def _write(self, name: str, content: Mapping[str, Any]) -> str:
        """The file name of model and ``content`` in ``save_dir``."""
        data = {"model": self.model.state_dict(), **content}
        file_name = f"{name}.pth"
        logger.info("Saving checkpoint to %s", os.path.join(self.save_dir, file_name))
        write_atomically(os.path.join(self.save_dir, file_name), lambda file: torch.save(data, file))
        return file_name

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def get_checkpoint_file(self) -> str:
        """The last checkpoint of ``save_dir``, or the newest before it that can be read; "" where there is none.

        A file is never half written by us, but copies are cut off, and disks fail.

        Raises:
            ValueError: there are some, of which none can be read.
        """
        last = super().get_checkpoint_file()
        if not last:
            return ""
        numbered = sorted(Path(self.save_dir).glob("model_" + "[0-9]" * 7 + ".pth"), reverse=True)
        name = os.path.basename(last)
        # Those behind it are of another run, over which this one was begun.
        before = [str(path) for path in numbered if path.name < name or not re.fullmatch(r"model_\d{7}\.pth", name)]
        reasons: list[str] = []
        for path in [last, *before]:
            try:
                self.read(path)
            except (ValueError, OSError) as error:
                reasons.append(" ".join(str(error).split()))
                continue
            if reasons:
                logger.warning("%s. Taking the checkpoint before it, %s", reasons[0], path)
            return path
        raise ValueError(reasons[0])

    def _load_file(self, f: str) -> dict[str, Any]:
        self._file = f
        loaded = self.read(f)
        check_not_sam(loaded["model"], f)
        check_numbers(loaded["model"], self.model.state_dict(), f)
        return loaded

    @property
    def loaded(self) -> str:
        """The file that was last read."""
        return self._file

    @staticmethod
    def read(path: str) -> dict[str, Any]:
        """A .pth or .safetensors file as ``{"model": state dict, ...}``; "trainer" says what it was trained on.

        That is of ours ``class_names``, ``exif``, the pixel grid of the labels, and ``made_by``, the code, libraries
        and data it was done with; a .safetensors holds them as JSON in its metadata.

        Raises:
            ValueError: names the file when it is damaged, or holds anything but tensors and plain values.
        """
        try:
            if path.endswith(".safetensors"):
                with safe_open(path, framework="pt") as file:
                    about = file.metadata() or {}
                training = {key: json.loads(about[key]) for key in TRAINING if key in about}
                loaded: Any = {"model": load_file(path), "trainer": training}
            else:
                loaded = torch.load(path, map_location="cpu", weights_only=True)
                _check_bytes(path)
        except Exception as error:  # A damaged file makes the readers raise anything.
            raise ValueError(
                f"{path}: not a readable checkpoint; expected a complete .pth of tensors and plain values, "
                f"or a .safetensors file; this is {what_it_is(path) or 'neither'} ({error})"
            ) from error
        state = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            raise ValueError(f"{path}: expected a dict of weights, got {type(state).__name__}")
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        if self.strict and any(incompatible):
            shapes = [f"{k} {tuple(a)} instead of {tuple(b)}" for k, a, b in incompatible.incorrect_shapes]
            raise ValueError(
                f"{self._file}: does not fit the model that the config describes: "
                f"missing {sorted(incompatible.missing_keys)}, unexpected {sorted(incompatible.unexpected_keys)}, "
                f"other shapes {shapes}"
            )
        return incompatible
