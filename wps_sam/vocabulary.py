"""The part classes of a data set or a model, and the objects that they are parts of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class PartVocabulary:
    """C part classes and their objects, each in the order of its ids 0, 1, ...

    :meth:`from_names` fills in what is not known; of a registered data set there is :meth:`of`.

    Args:
        names: of the classes, C of them, as all tuples about classes.
        supercategories: by which results are grouped.
        object_names: of all objects, those without parts too.
        part_objects: the id of each class's object.
        dataset_ids: the classes' category ids in json files, which are also their values in label PNGs.
        background_ids: values of label PNGs that mean background; () where pixels without part are ignored instead.
        ignore_label: of pixels of which nothing is known.
        ignored_ids: further values that read as ignore_label: of classes that a training set hides, for example.
        unseen: classes that zero-shot training does not see.
        unseen_objects: ids of the objects that it does not see.
        flip_map: class to class in a mirrored picture, where classes tell left from right; else None. A class and its
            mirror image are both seen or both unseen.
        family: data sets of one family share their division into seen and unseen classes.
    """

    names: tuple[str, ...]
    supercategories: tuple[str, ...]
    object_names: tuple[str, ...]
    part_objects: tuple[int, ...]
    dataset_ids: tuple[int, ...]
    background_ids: tuple[int, ...]
    ignore_label: int
    ignored_ids: tuple[int, ...] = ()
    unseen: frozenset[int] = frozenset()
    unseen_objects: frozenset[int] = frozenset()
    flip_map: tuple[int, ...] | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        for field in ("supercategories", "part_objects", "dataset_ids", "flip_map"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.names):
                raise ValueError(f"{field}: expected one for each of {len(self.names)} part classes, got {values}")

    @classmethod
    def from_names(cls, names: Sequence[str], supercategories: Sequence[str] | None = None) -> PartVocabulary:
        """The vocabulary of part names alone, with ids 0..C-1 and the background C.

        Args:
            names: of the part classes.
            supercategories: of each class, which are then the objects; None reads the objects off the names.
        """
        owners = tuple(map(object_of_part, names) if supercategories is None else supercategories)
        objects = tuple(dict.fromkeys(owners))
        return cls(
            names=tuple(names),
            supercategories=owners,
            object_names=objects,
            part_objects=tuple(map(objects.index, owners)),
            dataset_ids=tuple(range(len(names))),
            background_ids=(len(names),),
            # 255 would be a class or the background of a larger set.
            ignore_label=255 if len(names) < 255 else 65535,
        )

    @classmethod
    def of(cls, metadata: Any) -> PartVocabulary:
        """The vocabulary of a data set, from its entry in MetadataCatalog; see datasets/README.md for the fields.

        Only thing_classes are needed; what the entry does not say is as in :meth:`from_names`, but for the background,
        which there is only with a background_label.
        """
        known = cls.from_names(metadata.thing_classes, metadata.get("part_supercategories"))
        classes = range(len(known))
        object_names = tuple(metadata.get("obj_classes", known.object_names))
        part_objects = metadata.get("part_objects") or map(object_names.index, known.supercategories)
        label_map = metadata.get("label_map", known.label_map)
        ignore_label = metadata.get("ignore_label", known.ignore_label)
        background_label = metadata.get("background_label")
        value_of = {label: value for value, label in label_map.items()}
        unseen = set(classes).difference(metadata.get("evaluation_set", {}).get("base", classes))
        flip_map = metadata.get("flip_map")
        return replace(
            known,
            object_names=object_names,
            part_objects=tuple(part_objects),
            dataset_ids=tuple(value_of.get(c, c) for c in classes),
            background_ids=tuple(value for value, label in label_map.items() if label == background_label),
            ignore_label=ignore_label,
            ignored_ids=tuple(value for value, label in label_map.items() if label == ignore_label),
            flip_map=None if flip_map is None else tuple(flip_map),
            family=metadata.get("family"),
        ).with_unseen(unseen)

    def __len__(self) -> int:
        return len(self.names)

    def parts_of(self, object_id: int) -> list[int]:
        """The classes of the parts of one object, ascending; [] for an object without parts."""
        if not 0 <= object_id < len(self.object_names):
            raise ValueError(f"object {object_id}: expected 0..{len(self.object_names) - 1}")
        return [c for c, of in enumerate(self.part_objects) if of == object_id]

    def parts_named_like(self, object_id: int) -> list[int]:
        """The classes whose name contains the object's: how OV-PARTS' own code finds an object's parts."""
        name = self.object_names[object_id]
        return [c for c, part_name in enumerate(self.names) if name in part_name]

    def with_unseen(self, unseen: Iterable[int]) -> PartVocabulary:
        """The same vocabulary with these classes unseen, and with them the objects of which no part is seen."""
        hidden = frozenset(unseen)
        seen_objects = {of for c, of in enumerate(self.part_objects) if c not in hidden}
        hidden_objects = frozenset(range(len(self.object_names))) - seen_objects
        return replace(self, unseen=hidden, unseen_objects=hidden_objects)

    def after_training_on(self, trained_names: Sequence[str]) -> PartVocabulary:
        """The same vocabulary for a model that was trained on these names: the others are unseen."""
        trained = set(trained_names)
        return self.with_unseen(c for c, name in enumerate(self.names) if name not in trained)

    @property
    def label_map(self) -> dict[int, int]:
        """Value of a label PNG to class id; of the background to C, of what is hidden to ignore_label."""
        return {
            **{value: c for c, value in enumerate(self.dataset_ids)},
            **dict.fromkeys(self.background_ids, len(self)),
            **dict.fromkeys(self.ignored_ids, self.ignore_label),
        }

    @property
    def seen_ids(self) -> dict[int, int]:
        """Every seen class to its id in :meth:`only_seen`."""
        return {c: i for i, c in enumerate(c for c in range(len(self)) if c not in self.unseen)}

    def only_seen(self) -> PartVocabulary:
        """The vocabulary of a zero-shot training set: the seen classes, numbered anew; unseen ones read as ignore.

        Objects keep their ids.
        """
        ids = self.seen_ids
        return replace(
            self,
            names=tuple(self.names[c] for c in ids),
            supercategories=tuple(self.supercategories[c] for c in ids),
            part_objects=tuple(self.part_objects[c] for c in ids),
            dataset_ids=tuple(self.dataset_ids[c] for c in ids),
            ignored_ids=(*self.ignored_ids, *(self.dataset_ids[c] for c in sorted(self.unseen))),
            unseen=frozenset(),
            flip_map=None if self.flip_map is None else tuple(ids[self.flip_map[c]] for c in ids),
        )

    def metadata(self) -> dict[str, Any]:
        """What MetadataCatalog has to know of the classes; see datasets/README.md for the fields."""
        metadata: dict[str, Any] = {
            "thing_classes": list(self.names),
            "stuff_classes": list(self.names),
            "part_supercategories": list(self.supercategories),
            "obj_classes": list(self.object_names),
            "part_objects": list(self.part_objects),
            "ignore_label": self.ignore_label,
            "label_map": self.label_map,
        }
        if self.background_ids:
            metadata["stuff_classes"].append("background")
            metadata["background_label"] = len(self)
        if self.unseen:
            metadata["evaluation_set"] = {"base": list(self.seen_ids)}
        if self.flip_map is not None:
            metadata["flip_map"] = list(self.flip_map)
        if self.family is not None:
            metadata["family"] = self.family
        return metadata


def object_of_part(part_name: str) -> str:
    """The object in a name such as ``dog's left ear``: the text before the first ``'s ``; else the whole name.

    Never a substring test: "chair" is in "armchair's seat", and "door" in "cabinet's door".
    """
    return part_name.split("'s ", 1)[0]


def split_part_name(part_name: str) -> tuple[str, str]:
    """Object and part of a name such as ``dog's left ear``; of a name without an object ``""`` and the name itself."""
    owner, found, part = part_name.partition("'s ")
    return (owner, part) if found else ("", part_name)


def words_of(part_names: Iterable[str]) -> list[str]:
    """The objects and the parts that names are made of, each once."""
    return list(dict.fromkeys(word for name in part_names for word in split_part_name(name) if word))
