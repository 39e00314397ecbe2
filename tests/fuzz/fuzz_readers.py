"""The readers of other people's files, each with honest inputs, how they are damaged, and a way to run it.

A reader may return, or raise a ValueError that names the file. Anything else is a fault.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wps_sam.checkpointer import SafeCheckpointer
from wps_sam.data.imports import Notes, PictureFolder, convert, detect_format, read_labels
from wps_sam.data.sources import descriptions
from wps_sam.data.sources.coco import (
    LoadOptions,
    load_coco_parts,
    load_coco_vocabulary,
    load_partimagenet,
    load_vocabulary,
    tight_box,
    usable_segmentation,
)
from wps_sam.data.sources.ov_parts import OVSet, load_ade20k_part_234, load_partimagenet_147, load_pascal_part_116
from wps_sam.data.sources.part_map_check import check_part_map_ids
from wps_sam.data.sources.pascal_part import VARIANTS, part_instances, part_map, read_annotation
from wps_sam.data.tags import read_tags
from wps_sam.data.weak_labels import label_kind, part_point
from wps_sam.encoders.build_sam import read_state_dict
from wps_sam.label_studio.labelling import read_labelling, write_labelling
from wps_sam.masks import (
    mask_to_rle,
    read_label_png,
    read_part_map,
    read_picture,
    read_rgb,
    segmentation_to_mask,
    stored_size,
)

import numpy as np
import ov_layouts
import part_layouts
import pascal_layout
import tool_exports
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from fuzz_inputs import Inputs, byte_inputs, json_inputs, text_inputs
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat
from small_coco import annotation, coco

_WORDS = r"[^\s,;:=<>\"'\[\]{}]+"
_XML_VALUES = r"(?<=\")[^\"]*(?=\")|(?<=>)[^<>]+(?=<)|<[^<>]+>"


@dataclass(frozen=True)
class Reader:
    """``read`` reads ``file``, which holds one of ``inputs``; its ValueErrors say one of ``told``."""

    file: Path
    inputs: Inputs
    read: Callable[[], Any]
    told: tuple[str, ...]


def _random_picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, channels)).astype(np.uint8)


# -- COCO and what is made of it --------------------------------------------------------------------------


def _coco_contents() -> list[dict[str, Any]]:
    whole, marked = coco(), coco()
    marked["images"][0].update(tags=["wheel"], id="first")
    mask = np.zeros((20, 30), bool)
    mask[3:9, 4:20] = True
    runs = [4 * 20 + 3] + [6, 14] * 15 + [6, 20 * 30 - 4 * 20 - 3 - 15 * 20 - 6]
    marked["annotations"] = [
        annotation(1, "first", 1, (2, 3, 8, 12), point=[4, 5]),
        annotation(2, 2, 2, (2, 3, 8, 12), segmentation=mask_to_rle(mask), iscrowd=1),
        annotation(3, 2, 1, (2, 3, 8, 12), segmentation={"size": [20, 30], "counts": runs}),
        {"id": "tag", "image_id": 2, "category_id": 2},
        {"id": 5, "image_id": 2, "category_id": 1, "point": [1, 1], "keypoints": [3, 4, 2, 6, 7, 1]},
    ]
    marked["categories"][0]["keypoints"] = ["left end", "right end"]
    return [whole, marked]


def _all_labels(records: Sequence[dict[str, Any]], metadata: Any) -> None:
    """What a training and an evaluation ask of records."""
    places = [{"segmentation", "bbox"} & found.keys() for record in records for found in record["annotations"]]
    for record in records:
        read_picture(record)
        size = record["height"], record["width"]
        for found in record["annotations"]:
            label_kind(found, *size, "as_annotated")
            for rule in ("box_center", "random_pixel", "deepest_pixel"):
                part_point(found, *size, rule, 0)
        if all(places):  # Points and tags say not which pixels are a part, which evaluations refuse.
            read_part_map(record, metadata)


def _coco(folder: Path) -> Reader:
    for name in "ab":
        Image.fromarray(_random_picture(20, 30)).save(folder / f"{name}.png")
    file = folder / "coco.json"

    def read() -> None:
        vocabulary = load_coco_vocabulary(str(file))
        records = load_coco_parts(str(folder), str(file), vocabulary, LoadOptions(exif="auto", ids="name"))
        _all_labels(records, SimpleNamespace(**vocabulary.metadata()))

    return Reader(file, json_inputs(*_coco_contents()), read, (file.name, "a.png", "b.png", "image "))


def _partimagenet(folder: Path) -> Reader:
    images, file = folder / "images", folder / "labels" / "train.json"
    images.mkdir()
    file.parent.mkdir()
    for stem, parts in part_layouts.PICTURES.items():
        Image.fromarray(_random_picture(part_layouts.HEIGHT, part_layouts.WIDTH)).save(images / f"{stem}.JPEG")
        Image.fromarray(part_layouts.part_map_of(parts)).save(file.parent / f"{stem}.png")
    vocabulary = load_vocabulary("partimagenet")
    metadata = SimpleNamespace(**vocabulary.metadata())

    def read() -> None:
        records = load_partimagenet(str(images), str(file), vocabulary)
        check_part_map_ids(records, metadata)
        _all_labels(records, metadata)

    content = part_layouts.coco_of(part_layouts.PICTURES)
    return Reader(file, json_inputs(content), read, (file.name, "label map", ".JPEG", "image "))


def _segmentation(folder: Path) -> Reader:
    """Of an annotation alone, for pictures of 20 x 30 pixels."""
    file = folder / "segmentation.json"

    def read() -> None:
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return
        segmentation = content.get("segmentation") if isinstance(content, dict) else content
        usable = usable_segmentation(segmentation, 20, 30)
        if usable is not None:
            tight_box(usable, 20, 30)
            segmentation_to_mask(usable, 20, 30)
        if isinstance(segmentation, list | dict):
            segmentation_to_mask(segmentation, 20, 30)

    whole = [{"segmentation": a["segmentation"]} for c in _coco_contents() for a in c["annotations"] if len(a) > 6]
    return Reader(file, json_inputs(*whole), read, ("segmentation",))


def _description(folder: Path) -> Reader:
    (folder / "images").mkdir()
    (folder / "train.json").write_text(json.dumps(coco()))
    file = folder / "description.yaml"
    splits = {name: {"images": "images", "annotations": "train.json"} for name in ("train", "val")}
    whole = {"name": "fuzzed", "layout": "coco", "root": ".", "splits": splits, "classes": ["wheel", "window"]}
    zero_shot = {**whole, "unseen": ["window"], "layout": "partimagenet"}
    whole |= {"flip_pairs": [["wheel", "window"]], "crowds": "parts", "exif": "auto"}

    def read() -> None:
        try:
            descriptions.register_descriptions([str(file)])
        finally:
            descriptions._REGISTERED.clear()
            for catalog in (DatasetCatalog, MetadataCatalog):
                for name in [name for name in catalog.list() if name not in before]:
                    catalog.remove(name)

    before = {*DatasetCatalog.list(), *MetadataCatalog.list()}
    # Every JSON is YAML, too.
    inputs = json_inputs(whole, zero_shot) | text_inputs(yaml.safe_dump(whole), words=_WORDS)
    return Reader(file, inputs, read, (file.name,))


def _tags(folder: Path) -> Reader:
    file = folder / "tags.json"
    (folder / "a.png").touch()
    return Reader(
        file,
        json_inputs({"a.png": ["wheel", "window"]}),
        lambda: read_tags(str(file), str(folder), ["wheel", "window"]),
        (file.name,),
    )


# -- published data sets ----------------------------------------------------------------------------------


def _mat(folder: Path) -> Reader:
    file = folder / "2008_000002.mat"
    wholes = []
    for thing in (pascal_layout.CAR, pascal_layout.BICYCLE):
        pascal_layout.write_mat(file, [thing])
        wholes.append(file.read_bytes())
        # Not compressed, where every byte that changes is one of the format.
        parts = pascal_layout.struct_array([{"part_name": name, "mask": mask} for name, mask in thing.parts])
        entry = {"class": thing.name, "class_ind": np.uint8(7), "mask": thing.mask, "parts": parts}
        savemat(file, {"anno": {"imname": file.stem, "objects": pascal_layout.struct_array([entry])}})
        wholes.append(file.read_bytes())

    def read() -> None:
        objects = read_annotation(file)
        for variant in VARIANTS if objects else ():
            part_map(objects, variant, *objects[0].mask.shape)
            part_instances(objects, variant)

    return Reader(file, byte_inputs(*wholes), read, (file.name,))


def _ov_pascal(folder: Path, name: str) -> Reader:
    pictures = {stem: ov_layouts.PASCAL_TRAIN[stem] for stem in ("2008_000001", "2008_000002")}
    root = ov_layouts.write_pascal_part_116(folder, pictures, pictures)
    few_shot = OVSet("train", "object", "all", few_shot=True)
    load_pascal_part_116(str(folder), few_shot)
    (file,) = root.rglob(name)
    content = json.loads(file.read_bytes())
    return Reader(file, json_inputs(content), lambda: load_pascal_part_116(str(folder), few_shot), (file.name,))


def _ov_instances(folder: Path) -> Reader:
    train = {stem: ov_layouts.ADE_TRAIN[stem] for stem in ("ADE_train_00000001", "ADE_train_00000002")}
    root = ov_layouts.write_ade20k_part_234(folder, train, {"ADE_val_00000001": ov_layouts.ADE_VAL["ADE_val_00000001"]})
    load_ade20k_part_234(str(folder), OVSet("val", "object", "all"))
    file = root / "ade20k_instance_val.json"
    counts = root / "annotations_detectron2_part" / "val_instance_label_count.json"

    def read() -> None:
        load_ade20k_part_234(str(folder), OVSet("val", "object", "all"))
        # Made of the file itself, as for a user whose file was damaged from the first.
        counts.unlink()
        load_ade20k_part_234(str(folder), OVSet("val", "image", "all"))

    whole = json.loads(file.read_bytes())
    return Reader(file, json_inputs(whole), read, (file.name, counts.name, "label map", ".jpg"))


def _ov_partimagenet(folder: Path) -> Reader:
    root = ov_layouts.write_partimagenet(folder)
    file = root / "annotations" / "val" / "val.json"
    whole = json.loads(file.read_bytes())
    of_set = OVSet("val", "object", "all")
    return Reader(file, json_inputs(whole), lambda: load_partimagenet_147(str(folder), of_set), (file.name, ".JPEG"))


# -- pictures ---------------------------------------------------------------------------------------------


def _encoded(pixels: np.ndarray, form: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def _pictures() -> list[bytes]:
    rgb = _random_picture(20, 30)
    grey16 = rgb[..., 0].astype(np.uint16) * 200
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [
        _encoded(rgb, "PNG"),
        _encoded(rgb, "PNG", exif=exif),
        _encoded(rgb, "PNG", "P", transparency=3),
        _encoded(rgb, "PNG", "LA"),
        _encoded(grey16, "PNG"),
        _encoded(rgb, "JPEG", exif=exif),
        _encoded(rgb, "JPEG", "CMYK", progressive=True),
        _encoded(rgb, "BMP"),
        _encoded(rgb, "GIF", save_all=True, append_images=[Image.fromarray(255 - rgb)]),
        _encoded(rgb, "WEBP"),
        _encoded(rgb, "TIFF", compression="tiff_lzw"),
        _encoded(grey16, "TIFF"),
        _encoded(rgb, "PPM"),
        _encoded(rgb, "TGA"),
        _encoded(rgb, "JPEG2000"),
    ]
    if "AVIF" in Image.SAVE:
        found.append(_encoded(rgb, "AVIF"))
    # Colours of 16 bits, which Pillow does not write: the 8 of each channel twice.
    import cv2

    found.append(cv2.imencode(".png", rgb.astype(np.uint16) * 257)[1].tobytes())
    found.append(cv2.imencode(".tiff", rgb.astype(np.uint16) * 257)[1].tobytes())
    return found


def _picture(folder: Path) -> Reader:
    file = folder / "picture.png"

    def read() -> None:
        path = str(file)
        try:
            stored_size(path)
        except ValueError as error:
            assert file.name in str(error), error
        try:
            read_rgb(path, 20, 30)
        finally:
            read_rgb(path)

    refused = byte_inputs(_encoded(_random_picture(20, 30)[..., 0].astype(np.float32), "TIFF"))
    return Reader(file, byte_inputs(*_pictures()) | Inputs([], refused.damaged), read, (file.name,))


def _label_png(folder: Path) -> Reader:
    file = folder / "map.png"
    labels = np.arange(600).reshape(20, 30) % 7
    palette = Image.fromarray(labels.astype(np.uint8), "P")
    palette.putpalette([1, 2, 3] * 256)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    kinds = (np.uint8, np.uint16, bool)
    wholes = [buffer.getvalue(), *(_encoded(labels.astype(kind), "PNG") for kind in kinds)]
    metadata = SimpleNamespace(label_map={k: k for k in range(7)}, ignore_label=255)
    record = {"file_name": "a.jpg", "sem_seg_file_name": str(file), "height": 20, "width": 30}

    def read() -> None:
        read_label_png(str(file))
        read_part_map(record, metadata)

    return Reader(file, byte_inputs(*wholes), read, (file.name,))


# -- exports of tools -------------------------------------------------------------------------------------


def _export(name: str, format_name: str, make: Callable[[], Inputs]) -> Any:
    def build(folder: Path) -> Reader:
        file = folder / "source" / name
        file.parent.mkdir(parents=True)
        suffix, size = (".png", (30, 20)) if format_name == "coco" else (".jpg", (40, 30))
        for stem in "ab":
            tool_exports.picture(folder / "images" / f"{stem}{suffix}", size)
        if format_name == "yolo":
            _write_yolo(folder / "source")
        source, pictures = folder / "source", PictureFolder(folder / "images")

        def read() -> None:
            try:
                detect_format(source)
            except ValueError as error:
                assert "labels " in str(error), error
            notes = Notes()
            convert(read_labels(source, format_name, notes), pictures, notes)

        return Reader(file, make(), read, (file.name, "labels", "images"))

    return build


def _labelme() -> Inputs:
    mask = tool_exports.labelme_mask(np.ones((6, 16), bool))
    shapes = [
        tool_exports.labelme_shape("wheel", "polygon", [[1.5, 2.0], [9.0, 2.5], [5.0, 8.25]], group_id=3),
        tool_exports.labelme_shape("wheel", "polygon", [[1.5, 2.0], [9.0, 2.5], [5.0, 8.25]], group_id=3),
        tool_exports.labelme_shape("wheel", "rectangle", [[20.0, 12.0], [10.0, 4.5]]),
        tool_exports.labelme_shape("wheel", "circle", [[20.0, 15.0], [23.0, 19.0]]),
        tool_exports.labelme_shape("window", "mask", [[5, 3], [20, 8]], mask=mask),
    ]
    return json_inputs(tool_exports.labelme(*shapes, flags={"window": True}))


def _cvat() -> Inputs:
    shapes = (
        '<box label="wheel" xtl="1" ytl="2" xbr="9" ybr="8" rotation="30"/>'
        '<polygon label="wheel" points="1,2;9,2.5;5,8.25"/><points label="window" points="3,4;5,6"/>'
        '<ellipse label="wheel" cx="9" cy="8" rx="3" ry="2"/><tag label="window"/>'
        '<mask label="window" rle="2,4,2" left="3" top="4" width="4" height="2"/><polyline label="wheel" points="1,2"/>'
    )
    return text_inputs(tool_exports.cvat(tool_exports.cvat_image("a.jpg", shapes)), words=_XML_VALUES)


def _label_studio() -> Inputs:
    mask = np.zeros((tool_exports.HEIGHT, tool_exports.WIDTH), bool)
    mask[3:9, 5:21] = True
    results = [
        tool_exports.result(
            "rectanglelabels",
            {"x": 10, "y": 20, "width": 30, "height": 20, "rotation": 15, "rectanglelabels": ["wheel"]},
        ),
        tool_exports.result("polygonlabels", {"points": [[1, 2], [30, 4], [9, 50]], "polygonlabels": ["wheel"]}),
        tool_exports.result("brushlabels", {"rle": tool_exports.brush(mask), "brushlabels": ["window"]}),
        tool_exports.result("keypointlabels", {"x": 5, "y": 6, "width": 1, "keypointlabels": ["window"]}),
        tool_exports.result("choices", {"choices": ["window"]}),
    ]
    return json_inputs([tool_exports.task(*results), tool_exports.task(image="/data/local-files/?d=images/b.jpg")])


def _via() -> Inputs:
    region = tool_exports.via_region
    part = {"part": "wheel"}
    regions = [
        region("polygon", part, all_points_x=[1, 9, 5], all_points_y=[2, 3, 8]),
        region("rect", part, x=1, y=2, width=3, height=4),
        region("ellipse", {"part": {"window": True}}, cx=9, cy=8, rx=3, ry=2, theta=0.3),
        region("point", part, cx=3, cy=4),
    ]
    third = tool_exports.via_3(
        {
            "1_a": {"xy": [7, 1, 2, 9, 2.5, 5, 8], "av": {"1": "0"}},
            "1_b": {"xy": [2, 1, 2, 9, 2], "av": {"1": "1"}},
            "1_c": {"xy": [], "av": {"2": "0,1"}},
        }
    )
    return json_inputs(tool_exports.via_2(*regions), tool_exports.via_2(*regions, project=False), third)


def _voc() -> Inputs:
    inner = tool_exports.voc_object("window", (3, 4, 9, 9), tag="part")
    return text_inputs(tool_exports.voc(tool_exports.voc_object("wheel", (2, 3, 20, 20), inner)), words=_XML_VALUES)


_YOLO = "path: .\ntrain: images/train\nval: list.txt\nnames:\n  0: wheel\n  1: window\nkpt_shape:\n"


def _write_yolo(folder: Path) -> None:
    tool_exports.write(folder / "data.yaml", _YOLO)
    tool_exports.write(folder / "list.txt", "images/train/a.jpg\n")
    tool_exports.write(folder / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    (folder / "images" / "train").mkdir(parents=True)


def _yolo_labels() -> Inputs:
    return text_inputs("0 0.5 0.5 0.2 0.2\n1 0.1 0.2 0.7 0.3 0.4 0.9\n", words=_WORDS)


def _boxes_csv() -> Inputs:
    table = "file,part,x,y,width,height\na.jpg,wheel,3,4.5,10,9\nb.jpg,,,,,\n"
    return text_inputs(table, words=r"[^,\n]+|[,\n]")


def _tags_csv() -> Inputs:
    lists = ["a.jpg,wheel,window\nb.jpg,window\n", "file;wheel;window\na.jpg;1;0\nb.jpg;0;1\n"]
    return text_inputs(*lists, words=r"[^,;\n]+|[,;\n]")


# -- weights, and the labelling configuration that Label Studio sends -------------------------------------


def _weights(name: str) -> Any:
    def build(folder: Path) -> Reader:
        file = folder / name
        state = {"head.weight": torch.ones(3, 4), "head.bias": torch.zeros(3)}
        buffer = io.BytesIO()
        torch.save({"model": state, "trainer": {"class_names": ["wheel"], "exif": None}}, buffer)
        tensors = save(state, metadata={"class_names": '["wheel"]'})
        wholes = [tensors if name.endswith(".safetensors") else buffer.getvalue()]

        def read() -> None:
            try:
                SafeCheckpointer.read(str(file))
            finally:
                read_state_dict(str(file))

        return Reader(file, byte_inputs(*wholes), read, (file.name,))

    return build


def _labelling(folder: Path) -> Reader:
    file = folder / "labelling.xml"
    inputs = text_inputs(write_labelling(["wheel", "window"]), words=_XML_VALUES)
    return Reader(file, inputs, lambda: read_labelling(file.read_text("utf-8", "replace")), ("labelling",))


READERS: dict[str, Callable[[Path], Reader]] = {
    "coco": _coco,
    "partimagenet": _partimagenet,
    "segmentation": _segmentation,
    "description": _description,
    "tags": _tags,
    "mat": _mat,
    "ov_16_shot": lambda folder: _ov_pascal(folder, "train_16shot.json"),
    "ov_label_count": lambda folder: _ov_pascal(folder, "train_part_label_count.json"),
    "ov_instances": _ov_instances,
    "ov_partimagenet": _ov_partimagenet,
    "picture": _picture,
    "label_png": _label_png,
    "import_coco": _export("coco.json", "coco", lambda: json_inputs(*_coco_contents())),
    "import_labelme": _export("a.json", "labelme", _labelme),
    "import_cvat": _export("cvat.xml", "cvat", _cvat),
    "import_label_studio": _export("tasks.json", "label_studio", _label_studio),
    "import_via": _export("via.json", "via", _via),
    "import_voc": _export("a.xml", "voc", _voc),
    "import_yolo": _export("data.yaml", "yolo", lambda: text_inputs(_YOLO, words=_WORDS)),
    "import_yolo_labels": _export("labels/train/b.txt", "yolo", _yolo_labels),
    "import_yolo_list": _export("list.txt", "yolo", lambda: text_inputs("images/train/a.jpg\n./b.jpg\n", words=_WORDS)),
    "import_boxes_csv": _export("boxes.csv", "boxes_csv", _boxes_csv),
    "import_tags_csv": _export("tags.csv", "tags_csv", _tags_csv),
    "pth": _weights("weights.pth"),
    "safetensors": _weights("weights.safetensors"),
    "labelling": _labelling,
}
