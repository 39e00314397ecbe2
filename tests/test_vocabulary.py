"""Part vocabularies: what names alone say, what a data set's metadata say, and what zero-shot training may see."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import wps_sam  # noqa: F401  (registers the published data sets)
from wps_sam.vocabulary import PartVocabulary, object_of_part

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

NAMES = ("dog's left ear", "dog's right ear", "dog's tail", "car's door")
PETS = replace(
    PartVocabulary.from_names(NAMES),
    object_names=("dog", "car", "boat"),
    dataset_ids=(1, 2, 3, 7),
    background_ids=(0, 8),
    flip_map=(1, 0, 2, 3),
    family="pets",
)


def test_objects_of_part_names():
    assert object_of_part("chest of drawers's leg") == "chest of drawers"
    assert object_of_part("dog's left ear") == "dog"
    assert object_of_part("boat") == "boat"
    # A substring would take the armchair for a chair.
    vocabulary = PartVocabulary.from_names(["armchair's seat", "chair's seat", "chair's leg"])
    assert vocabulary.object_names == ("armchair", "chair")
    assert vocabulary.parts_of(1) == [1, 2] and vocabulary.parts_of(0) == [0]


def test_names_alone_make_a_vocabulary():
    vocabulary = PartVocabulary.from_names(list(NAMES))
    assert vocabulary.names == NAMES and len(vocabulary) == 4
    assert vocabulary.supercategories == ("dog", "dog", "dog", "car") and vocabulary.part_objects == (0, 0, 0, 1)
    assert vocabulary.label_map == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert vocabulary.unseen == frozenset() and vocabulary.flip_map is None and vocabulary.family is None
    # 255 would be the background of 255 classes.
    assert [PartVocabulary.from_names("x" * n).ignore_label for n in (254, 255)] == [255, 65535]
    grouped = PartVocabulary.from_names("abc", ["dog", "car", "dog"])
    assert grouped.object_names == ("dog", "car") and grouped.part_objects == (0, 1, 0)


def test_lists_about_classes_name_every_class():
    with pytest.raises(ValueError, match=r"flip_map: expected one for each of 4 part classes, got \(1, 0\)"):
        replace(PETS, flip_map=(1, 0))


def test_an_object_may_have_no_parts_but_must_exist():
    assert PETS.parts_of(2) == []
    with pytest.raises(ValueError, match=r"object 3: expected 0\.\.2"):
        PETS.parts_of(3)


def test_which_names_are_unseen():
    asked = PETS.after_training_on(["car's door", "cat's ear"])
    # Of the boat there is no part to see.
    assert asked.unseen == {0, 1, 2} and asked.unseen_objects == {0, 2}
    assert PETS.after_training_on(NAMES).unseen == frozenset()


def test_training_sees_the_seen_classes_numbered_anew():
    vocabulary = PETS.with_unseen([2])
    assert vocabulary.seen_ids == {0: 0, 1: 1, 3: 2}
    seen = vocabulary.only_seen()
    assert seen.names == ("dog's left ear", "dog's right ear", "car's door") and seen.part_objects == (0, 0, 1)
    assert seen.object_names == PETS.object_names and seen.unseen == frozenset()
    # The tail's 3 reads as ignore, the background as the new background.
    assert seen.label_map == {1: 0, 2: 1, 7: 2, 0: 3, 8: 3, 3: 255}
    assert PETS.with_unseen([0, 1]).only_seen().flip_map == (0, 1)


def test_metadata_with_and_without_background():
    metadata = PETS.metadata()
    assert metadata["stuff_classes"] == [*NAMES, "background"] and metadata["background_label"] == 4
    assert "evaluation_set" not in metadata and metadata["flip_map"] == [1, 0, 2, 3]
    metadata = replace(PETS, background_ids=(), flip_map=None, family=None).with_unseen([0, 2]).metadata()
    assert metadata["stuff_classes"] == list(NAMES) and metadata["label_map"] == {1: 0, 2: 1, 3: 2, 7: 3}
    assert metadata["evaluation_set"] == {"base": [1, 3]}
    assert not {"background_label", "flip_map", "family"} & set(metadata)


def test_metadata_of_somebody_elses_data_set_may_be_names_alone():
    class Metadata(SimpleNamespace):
        def get(self, key, default=None):
            return getattr(self, key, default)

    assert PartVocabulary.of(Metadata(thing_classes=list(NAMES))) == replace(
        PartVocabulary.from_names(NAMES), background_ids=()
    )
    # An object list without the object of each class: the supercategories are among it.
    vocabulary = PartVocabulary.of(
        Metadata(thing_classes=["a", "b"], part_supercategories=["car", "dog"], obj_classes=["dog", "car"])
    )
    assert vocabulary.part_objects == (1, 0)


# Detectron2 registers data sets without parts too.
OF_PARTS = [name for name in DatasetCatalog.list() if MetadataCatalog.get(name).get("part_supercategories")]


def test_there_are_published_data_sets():
    assert any(name.startswith("partimagenet") for name in OF_PARTS)
    assert any(name.startswith("pascal_part") for name in OF_PARTS)


@pytest.mark.parametrize("name", OF_PARTS)
def test_a_data_sets_metadata_is_its_vocabulary(name):
    """Read and written again, every published data set's fields are the same."""
    metadata = MetadataCatalog.get(name).as_dict()
    again = PartVocabulary.of(MetadataCatalog.get(name)).metadata()
    shared = set(again) & set(metadata)
    assert {key: again[key] for key in shared} == {key: metadata[key] for key in shared}
    assert set(again) - shared <= {"obj_classes", "part_objects"} and len(shared) >= 5
