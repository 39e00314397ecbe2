"""VGG Image Annotator (VIA), JSON of versions 2 and 3: a project, or its exported annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wps_sam.data.imports.labels import (
    Export,
    Format,
    Label,
    LabelledPicture,
    Notes,
    ReadFile,
    ellipse,
    number,
    split_of,
)
from wps_sam.data.sources.fields import is_pixels, mapping_of, shown, text

# Of several attributes, the one that tells the class.
_CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type")
_PROJECT_3 = frozenset({"project", "attribute", "file", "metadata", "view"})
# Version 3: kinds of regions by number, anchors of attributes, and the flag of what was deleted.
_KINDS_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}
_OF_REGIONS, _OF_FILES, _DELETED = "FILE1_Z0_XY1", "FILE1_Z0_XY0", 1
_TEXT = 1
_OPEN = ("line", "polyline")

# Numbers of a shape that say where it is, as a Label has them. Angles of ellipses are radians.
_SHAPES: dict[str, tuple[tuple[str, ...], Callable[..., dict[str, Any]]]] = {
    "point": (("cx", "cy"), lambda x, y: {"point": (x, y)}),
    "rect": (("x", "y", "width", "height"), lambda x, y, w, h: {"box": (x, y, x + w, y + h)}),
    "circle": (("cx", "cy", "r"), lambda x, y, r: {"segmentation": [ellipse((x, y), (r, r))]}),
    "ellipse": (
        ("cx", "cy", "rx", "ry", "theta"),
        lambda x, y, rx, ry, theta: {"segmentation": [ellipse((x, y), (rx, ry), theta)]},
    ),
}


def _recognises(file: ReadFile) -> bool:
    content = file.content
    return isinstance(content, dict) and (_PROJECT_3 <= content.keys() or _files_2(content) is not None)


def _files_2(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    files = content.get("_via_img_metadata", content)
    entries = files.values() if isinstance(files, dict) else ()
    is_via = bool(entries) and all(isinstance(e, dict) and {"filename", "regions"} <= e.keys() for e in entries)
    return files if is_via else None


def _read(files: Sequence[ReadFile], notes: Notes) -> Export:
    pictures, classes = [], dict[str, None]()
    for file in files:
        read = _read_3 if _PROJECT_3 <= file.content.keys() else _read_2
        found = read(file.content, f"labels {file.path}", split_of(file.relative), notes)
        pictures += found.pictures
        classes.update(dict.fromkeys(found.classes))
    return Export(pictures, tuple(classes))


# -- version 2 --------------------------------------------------------------------------------------------


def _read_2(content: Mapping[str, Any], where: str, split: str | None, notes: Notes) -> Export:
    entries = _files_2(content)
    assert entries is not None
    regions_of = {key: _regions_2(entry, f"{where}: {key!r}") for key, entry in entries.items()}
    used = Counter(a for regions in regions_of.values() for region in regions for a in region["region_attributes"])
    attribute = _class_attribute(used, where) if used else ""
    pictures = []
    for key, entry in entries.items():
        picture = LabelledPicture(text(entry, "filename", f"{where}: {key!r}"), split=split)
        if any(_mapping(entry, "file_attributes", f"{where}: {key!r}").values()):
            notes.leave_out("pictures' own attributes", picture.name)
        for k, region in enumerate(regions_of[key]):
            place = f"{where}: {key!r}: regions[{k}]"
            values = _values_2(region["region_attributes"].get(attribute))
            shape = region["shape_attributes"]
            _add_region(shape, values, f"{place}.shape_attributes", picture, notes)
        pictures.append(picture)
    options: Any = content
    for step in ("_via_attributes", "region", attribute, "options"):
        options = options.get(step) if isinstance(options, dict) else None
    return Export(pictures, tuple(options) if isinstance(options, dict) else ())


def _regions_2(entry: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    regions = entry["regions"]
    # Version 1 numbers them.
    found = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
        raise ValueError(f"{where}.regions: expected a list of regions, got {shown(regions)}")
    for k, region in enumerate(found):
        for key in ("shape_attributes", "region_attributes"):
            if not isinstance(region.get(key), dict):
                raise ValueError(f"{where}.regions[{k}].{key}: expected a mapping, got {shown(region.get(key))}")
    return found


def _values_2(value: Any) -> list[str]:
    """The classes of an attribute: a text, or {name: true} of a checkbox."""
    if isinstance(value, dict):
        return [name for name, is_set in value.items() if is_set]
    return [str(value)] if value else []


# -- version 3 --------------------------------------------------------------------------------------------


def _read_3(content: Mapping[str, Any], where: str, split: str | None, notes: Notes) -> Export:
    attributes, views, entries = (_mappings(content, key, where) for key in ("attribute", "view", "metadata"))
    options = {key: _mapping(a, "options", f"{where}: attribute {key!r}") for key, a in attributes.items()}
    names = {key: str(a.get("aname")) for key, a in attributes.items() if a.get("anchor_id") == _OF_REGIONS}
    chosen = _class_attribute(names.values(), where) if names else None
    of_regions = next((key for key, name in names.items() if name == chosen), "")
    # A text about a whole picture is a remark, not one of a list of classes.
    of_files = [k for k, a in attributes.items() if a.get("anchor_id") == _OF_FILES and a.get("type") != _TEXT]
    pictures = {
        view_id: LabelledPicture(_file_name_3(content, view, f"{where}: view {view_id}"), split=split)
        for view_id, view in views.items()
    }
    for key, entry in entries.items():
        place = f"{where}: metadata {key!r}"
        if entry.get("flg") == _DELETED:
            continue
        if str(entry.get("vid")) not in pictures:
            raise ValueError(f"{place}.vid: {shown(entry.get('vid'))} is no view")
        picture, xy, av = pictures[str(entry["vid"])], entry.get("xy") or [], _mapping(entry, "av", place)
        if not isinstance(xy, list) or not all(map(is_pixels, xy)):
            raise ValueError(f"{place}.xy: expected numbers, got {shown(xy)}")
        if entry.get("z"):
            notes.leave_out("segments of a video", picture.name)
        elif not xy:
            picture.tags += [tag for a in of_files for tag in _values_3(av.get(a), attributes[a])]
        else:
            values = _values_3(av.get(of_regions), attributes[of_regions]) if of_regions else []
            _add_region(_shape_3(xy, f"{place}.xy"), values, f"{place}.xy", picture, notes)
    return Export(list(pictures.values()), tuple(map(str, options.get(of_regions, {}).values())))


def _mapping(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """What is mapped there; nothing where it is missing or null."""
    return mapping_of(entry.get(key) or {}, f"{where}.{key}", lambda value: True, "values")


def _mappings(content: Mapping[str, Any], key: str, where: str) -> dict[str, dict[str, Any]]:
    return mapping_of(content.get(key), f"{where}: {key}", lambda value: isinstance(value, dict), "a mapping")


def _file_name_3(content: Mapping[str, Any], view: Mapping[str, Any], where: str) -> str:
    files, known = view.get("fid_list") or [], _mappings(content, "file", where)
    if not isinstance(files, list) or len(files) != 1 or str(files[0]) not in known:
        raise ValueError(f"{where}.fid_list: expected one known file, got {shown(files)}")
    return text(known[str(files[0])], "fname", where)


def _values_3(value: Any, attribute: Mapping[str, Any]) -> list[str]:
    """The classes of an attribute: a text, or numbers of its options with commas between them."""
    options = attribute.get("options") or {}
    if attribute.get("type") == _TEXT or not options:
        return [str(value)] if value else []
    return [str(options[key]) for key in str(value or "").split(",") if key in options]


def _shape_3(xy: Sequence[Any], where: str) -> dict[str, Any]:
    """A shape as version 2 writes it."""
    kind, values = _KINDS_3.get(xy[0], f"number {xy[0]}"), list(xy[1:])
    if kind == "polygon":
        return {"name": kind, "all_points_x": values[0::2], "all_points_y": values[1::2]}
    keys = _SHAPES[kind][0] if kind in _SHAPES else ()
    # Ellipses are upright there.
    values += [0] * (kind == "ellipse")
    if kind in _SHAPES and len(values) != len(keys):
        raise ValueError(f"{where}: expected the numbers {keys} of a {kind}, got {shown(xy)}")
    return {"name": kind, **dict(zip(keys, values))}


# -- both -------------------------------------------------------------------------------------------------


def _class_attribute(names: Iterable[str], where: str) -> str:
    """The attribute of regions that tells their class: the only one, or the only one with a telling name."""
    found = list(dict.fromkeys(names))
    telling = found if len(found) == 1 else [name for name in found if name.lower() in _CLASS_ATTRIBUTES]
    if len(telling) != 1:
        raise ValueError(
            f"{where}: region attributes {found}: expected one, or one that is called one of {_CLASS_ATTRIBUTES}"
        )
    return telling[0]


def _add_region(
    shape: Mapping[str, Any], classes: Sequence[str], where: str, picture: LabelledPicture, notes: Notes
) -> None:
    kind = str(shape.get("name"))
    if kind in _OPEN:
        notes.leave_out("lines", picture.name)
        return
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise ValueError(f"{where}: expected as many all_points_x as all_points_y, got {shown(shape)}")
        place: dict[str, Any] = {"segmentation": [[number(v, where) for point in zip(xs, ys) for v in point]]}
    elif kind in _SHAPES:
        keys, make = _SHAPES[kind]
        place = make(*(number(shape.get(key, 0 if key == "theta" else None), f"{where}.{key}") for key in keys))
    else:
        notes.leave_out(f"regions of the kind {kind!r}", picture.name)
        return
    if not classes:
        notes.leave_out("regions without a class", picture.name)
    picture.labels += [Label(name, **place) for name in classes]


FORMAT = Format("via", "VGG Image Annotator 2 or 3, JSON", ("*.json",), _recognises, _read)
