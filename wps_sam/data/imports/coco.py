"""COCO: instances, keypoints, and our own extras (``point`` of an annotation, ``tags`` of an image)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wps_sam.data.imports.labels import Export, Format, Label, LabelledPicture, Notes, Point, ReadFile, split_of
from wps_sam.data.sources.coco_json import CocoAnnotation, check_coco
from wps_sam.data.sources.fields import is_pixels, shown

_HIDDEN, _VISIBLE = 1, 2


def _recognises(file: ReadFile) -> bool:
    return isinstance(file.content, dict) and {"images", "annotations", "categories"} <= file.content.keys()


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    pictures: list[LabelledPicture] = []
    classes = dict[str, None]()
    for file in files:
        coco = check_coco(file.content, str(file.path))
        names = {category.id: category.name for category in coco.categories}
        classes.update(dict.fromkeys(category.name for category in sorted(coco.categories)))
        split = split_of(file.relative)
        by_id = {
            image.id: LabelledPicture(image.file_name, (image.height, image.width), split, tags=list(image.tags))
            for image in coco.images
        }
        pictures += by_id.values()
        keypoint_names = {c["id"]: c.get("keypoints") for c in file.content["categories"]}
        # They are checked in the order of the file.
        for annotation, entry in zip(coco.annotations, file.content["annotations"]):
            if annotation.image_id not in by_id:
                raise ValueError(f"{annotation.where}.image_id: {annotation.image_id!r} is the id of no image")
            if annotation.category_id not in names:
                raise ValueError(f"{annotation.where}.category_id: {annotation.category_id} is the id of no category")
            picture, name = by_id[annotation.image_id], names[annotation.category_id]
            points = list(_keypoints(annotation, entry, picture.name, notes))
            labels = _labels(annotation, name, points, keypoint_names.get(annotation.category_id))
            picture.labels += labels
            if not labels:
                picture.tags.append(name)
    return Export(pictures, tuple(classes))


def _labels(annotation: CocoAnnotation, name: str, points: Sequence[tuple[int, Point]], parts: Any) -> list[Label]:
    """The annotation itself, if something says where it is, and its keypoints.

    A single keypoint is where the annotation is; of several, each is a part: "person's nose".
    """
    box, point = annotation.bbox, _continuous(annotation.point)
    labels = []
    if isinstance(parts, list) and len(parts) > 1:
        labels = [Label(f"{name}'s {parts[k]}", point=at) for k, at in points if k < len(parts)]
    elif points:
        point = points[0][1]
    if box or point or annotation.segmentation:
        corners = (box[0], box[1], box[0] + box[2], box[1] + box[3]) if box and (box[2] or box[3]) else None
        labels.insert(0, Label(name, corners, point, annotation.segmentation or None, annotation.iscrowd))
    return labels


def _keypoints(
    annotation: CocoAnnotation, entry: Mapping[str, Any], picture: str, notes: Notes
) -> Iterator[tuple[int, Point]]:
    """Number and place of the keypoints that can be seen."""
    values = entry.get("keypoints") or []
    if not isinstance(values, list) or len(values) % 3 or not all(map(is_pixels, values)):
        raise ValueError(f"{annotation.where}.keypoints: expected [x, y, visibility, ...], got {shown(values)}")
    for k in range(len(values) // 3):
        x, y, visibility = values[3 * k : 3 * k + 3]
        if visibility == _VISIBLE:
            yield k, (x + 0.5, y + 0.5)
        elif visibility == _HIDDEN:
            # Another part lies over it, and would be taken for this one.
            notes.leave_out("keypoints that are hidden (visibility 1)", picture)


def _continuous(point: Sequence[float] | None) -> Point | None:
    # Whole numbers are pixel centres here, in keypoints too.
    return None if point is None else (point[0] + 0.5, point[1] + 0.5)


FORMAT = Format("coco", "COCO json, instances or keypoints; one file or one a split", ("*.json",), _recognises, _read)
