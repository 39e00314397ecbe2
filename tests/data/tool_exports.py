"""Exports of labelling tools, written as these tools write them, for pictures of 40 x 30 pixels."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 0, grey: int = 90) -> Path:
    """Writes a picture of (width, height) as stored, perhaps with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", size, (grey, grey, grey)).save(path, exif=exif)
    return path


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# -- LabelMe ----------------------------------------------------------------------------------------------


def labelme_shape(label: str, kind: str, points: Sequence[Sequence[float]], **more: Any) -> dict[str, Any]:
    whole = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
    return {**whole, "mask": None, **more}


def labelme(*shapes: dict[str, Any], path: str = "a.jpg", **more: Any) -> dict[str, Any]:
    whole = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": path, "imageData": None}
    return {**whole, "imageHeight": HEIGHT, "imageWidth": WIDTH, **more}


def labelme_mask(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).convert("1").save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


# -- CVAT -------------------------------------------------------------------------------------------------


def cvat(images: str, labels: Sequence[str] = ("wheel", "window")) -> str:
    declared = "".join(
        f"<label><name>{name}</name><color>#b83df5</color><type>any</type><attributes></attributes></label>"
        for name in labels
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <job>'
        "<id>7</id><size>2</size><mode>annotation</mode><overlap>0</overlap><bugtracker></bugtracker>"
        f"<subset>default</subset><labels>{declared}</labels></job><dumped>2024-05-02 10:11:12+00:00</dumped></meta>\n"
        f"{images}\n</annotations>\n"
    )


def cvat_image(name: str, shapes: str, more: str = "") -> str:
    return f'<image id="0" name="{name}" {more} width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'


# -- Label Studio -----------------------------------------------------------------------------------------


def result(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "id": "x1", "from_name": "label"}
    return {**about, "to_name": "image", "type": kind, "origin": "manual", "value": value, **more}


def task(*results: dict[str, Any], image: str = "/data/upload/3/0a1b2c3d-a.jpg", **more: Any) -> dict[str, Any]:
    annotation = {"id": 5, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False}
    whole = {"id": 11, "annotations": [annotation], "file_upload": "0a1b2c3d-a.jpg", "drafts": [], "predictions": []}
    return {**whole, "data": {"image": image}, "meta": {}, "project": 3, **more}


def brush(mask: np.ndarray) -> list[int]:
    """rle-pack of the RGBA picture that Label Studio makes of a mask bool [H, W], written from its format."""
    values = np.repeat(mask.ravel(), 4).astype(int) * 255
    bits = f"{len(values):032b}" + f"{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1), len(values)]
    for start, end in itertools.pairwise(starts):
        length = int(end - start)
        if length == 8:
            # Nothing forbids to write them one by one.
            bits += "000" + f"{length - 1:03b}" + "".join(f"{values[start]:08b}" for _ in range(length))
            continue
        index, size = next((k, size) for k, size in enumerate((3, 4, 8, 16)) if length <= 2**size)
        bits += "1" + f"{index:02b}" + f"{length - 1:0{size}b}" + f"{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


# -- VIA --------------------------------------------------------------------------------------------------


def via_region(name: str, attributes: dict[str, Any], **shape: Any) -> dict[str, Any]:
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": attributes}


def via_2(*regions: dict[str, Any], filename: str = "a.jpg", project: bool = True, **file_attributes: str) -> Any:
    entry = {"filename": filename, "size": 2043, "regions": list(regions), "file_attributes": file_attributes}
    files = {f"{filename}2043": entry}
    options = {"wheel": "", "window": ""}
    attributes = {"part": {"type": "radio", "description": "", "options": options, "default_options": {}}}
    about = {
        "_via_settings": {"ui": {}, "core": {}, "project": {"name": "parts"}},
        "_via_img_metadata": files,
        "_via_attributes": {"region": attributes, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(files),
    }
    return about if project else files


def via_3(metadata: dict[str, Any]) -> dict[str, Any]:
    def attribute(name: str, anchor: str, kind: int) -> dict[str, Any]:
        options = {"0": "wheel", "1": "window"}
        about = {"aname": name, "anchor_id": anchor, "type": kind, "desc": "", "options": options}
        return {**about, "default_option_id": ""}

    files = {str(k): {"fid": str(k), "fname": name, "type": 2, "loc": 1, "src": name} for k, name in ((1, "a.jpg"),)}
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "rev": "__VIA_PROJECT_REV_ID__", "pname": "parts", "vid_list": ["1"]},
        "config": {"file": {"loc_prefix": {"1": ""}}, "ui": {}},
        "attribute": {
            "1": attribute("part", "FILE1_Z0_XY1", 4),
            "2": attribute("parts in it", "FILE1_Z0_XY0", 2),
        },
        "file": files,
        "metadata": {key: {"vid": "1", "flg": 0, "z": [], **entry} for key, entry in metadata.items()},
        "view": {"1": {"fid_list": ["1"]}},
    }


# -- Pascal VOC -------------------------------------------------------------------------------------------


def voc_object(name: str, box: Sequence[float], inner: str = "", tag: str = "object") -> str:
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<{tag}><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox>{inner}</{tag}>"


def voc(objects: str, filename: str = "a.jpg", width: int = WIDTH, height: int = HEIGHT) -> str:
    return (
        f"<annotation><folder>VOC2007</folder><filename>{filename}</filename><source><database>x</database></source>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size><segmented>0</segmented>"
        f"{objects}</annotation>"
    )
