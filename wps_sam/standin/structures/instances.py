"""``Instances``: fields of one length that describe the objects of one image."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch


class Instances:
    """The objects of an image of ``image_size`` (height, width).

    Fields are set and read as attributes (``instances.gt_boxes = ...``); all have one entry per object.
    Indexing takes the same objects of every field.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # "_fields" itself is missing while an object is being unpickled or copied.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"no field {name!r} in the given Instances")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Sets a field; its length must be that of the others."""
        if self._fields and len(value) != len(self):
            raise AssertionError(f"field {name!r} has length {len(value)}, the other fields {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """True if there is such a field."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Removes a field."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Returns a field."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields; changing the dict changes the instances."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Applies ``to`` to every field that has it."""
        moved = Instances(self._image_size)
        for name, value in self._fields.items():
            moved.set(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: Any) -> Instances:
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"instance {item} of {len(self)}")
            # One object is still a list of objects; a slice from -1 would need no end.
            item = slice(item, None, len(self))
        chosen = Instances(self._image_size)
        for name, value in self._fields.items():
            chosen.set(name, value[item])
        return chosen

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError("Instances are not iterable")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """The objects of all, in order; they must be of one image size and have the same fields."""
        if not instance_lists:
            raise AssertionError("nothing to concatenate")
        first = instance_lists[0]
        if any(other.image_size != first.image_size for other in instance_lists):
            raise AssertionError(f"image sizes differ: {[other.image_size for other in instance_lists]}")
        joined = Instances(first.image_size)
        for name, sample in first._fields.items():
            values = [other.get(name) for other in instance_lists]
            if isinstance(sample, torch.Tensor):
                joined.set(name, torch.cat(values, dim=0))
            elif isinstance(sample, list):
                joined.set(name, list(itertools.chain(*values)))
            elif hasattr(type(sample), "cat"):
                joined.set(name, type(sample).cat(values))
            else:
                raise ValueError(f"field {name!r}: do not know how to concatenate {type(sample).__name__}")
        return joined

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        count = len(self) if self._fields else 0
        height, width = self._image_size
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{fields}])"
