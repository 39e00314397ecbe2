"""Files of people whom nobody knows: they run no code, fill no memory, and name no file outside of their folder."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from wps_sam.cli import parse
from wps_sam.config import read_config
from wps_sam.data.imports import Notes, read_labels
from wps_sam.data.sources import mat_file
from wps_sam.data.sources.fields import read_json, read_yaml
from wps_sam.data.sources.mat_file import MatReader
from wps_sam.data.sources.pascal_part import prepare
from wps_sam.data.tags import read_tags
from wps_sam.label_studio.pictures import Pictures
from wps_sam.masks import read_label_png, read_rgb, stored_size
from wps_sam.paths import leads_out, outside
from wps_sam.pretrained import find_pretrained

import pytest
import tool_exports
from PIL import EpsImagePlugin
from scipy.io import savemat
from small_coco import SmallSet, coco

# ------------------------------------------------------------------ code


class _Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_the_process_that_reads_a_mat_file_can_run_no_code_in_ours(tmp_path, monkeypatch):
    """A file that takes it over could have it answer anything."""
    trace, answer = tmp_path / "ran", tmp_path / "answer"
    answer.write_bytes(pickle.dumps((_Bomb(trace), None)))
    savemat(tmp_path / "a.mat", {"name": "a"})
    program = tmp_path / "taken_over.py"
    program.write_text(f"import sys; sys.stdin.readline(); sys.stdout.buffer.write(open({str(answer)!r}, 'rb').read())")
    reader = MatReader()
    with monkeypatch.context() as patch:
        patch.setattr(mat_file, "__file__", str(program))
        with pytest.raises(ValueError, match=r"it holds more than arrays and texts: posix\.system"):
            reader(tmp_path / "a.mat")
    assert not trace.exists()
    pickle.loads(answer.read_bytes())
    assert trace.exists()
    # The next file has a new process.
    assert reader(tmp_path / "a.mat")["name"].item() == "a"


def test_a_configuration_makes_no_objects(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"SOLVER: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(ValueError, match=r"a\.yaml: .*python/object"):
        read_config(path)
    assert not (tmp_path / "ran").exists()


def test_a_picture_runs_no_program(tmp_path, monkeypatch):
    """Pillow has Ghostscript run what is in a PostScript file, whatever the file is called."""
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: ran.append(arguments))
    path = tmp_path / "a.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (read_rgb, read_label_png, stored_size):
        with pytest.raises(ValueError, match=r"a\.jpg: cannot be decoded: cannot identify"):
            read(str(path))
    assert not ran


# ------------------------------------------------------------------ size


def _png_of(width: int, height: int) -> bytes:
    """A grey PNG of so many pixels, all 0, of a thousandth of their size. The format: length, name, content, CRC-32."""
    rows = zlib.compressobj(1)
    packed = b"".join(rows.compress(bytes(width + 1)) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """200 million pixels in 0.2 MB."""
    return _png_of(20_000, 10_000)


def _labelme(folder: Path, content: bytes) -> None:
    shape = tool_exports.labelme_shape(
        "wheel", "mask", [[0, 0], [19_999, 9_999]], mask=base64.b64encode(content).decode()
    )
    tool_exports.write(folder / "a.json", tool_exports.labelme(shape))
    read_labels(folder, "labelme", Notes())


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: read_rgb(str(folder / "a.png")),
        lambda folder: read_label_png(str(folder / "a.png")),
        lambda folder: stored_size(str(folder / "a.png")),
        lambda folder: Pictures([folder]).read("/data/upload/1/a.png"),
        lambda folder: _labelme(folder / "labels", (folder / "a.png").read_bytes()),
    ],
)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, bomb, read: Callable[[Path], object]):
    (tmp_path / "a.png").write_bytes(bomb)
    start = time.process_time()
    with pytest.raises(ValueError, match=r"cannot be decoded: Image size \(200000000 pixels\) exceeds limit"):
        read(tmp_path)
    # Decoding takes over a second.
    assert time.process_time() - start < 0.3


HUGE = 10**6
_MASK = f'<mask label="wheel" rle="0,{HUGE * HUGE}" left="0" top="0" width="{HUGE}" height="{HUGE}"/>'


@pytest.mark.parametrize(
    ("format_name", "file", "content", "place"),
    [
        (
            "cvat",
            "a.xml",
            tool_exports.cvat(f'<image name="a.jpg" width="{HUGE}" height="{HUGE}">{_MASK}</image>'),
            "image 'a.jpg'",
        ),
        ("labelme", "a.json", tool_exports.labelme(imageHeight=HUGE, imageWidth=HUGE), "a.json: imageHeight"),
        (
            "label_studio",
            "a.json",
            [
                tool_exports.task(
                    tool_exports.result(
                        "brushlabels",
                        {"rle": [0] * 30, "brushlabels": ["wheel"]},
                        original_height=HUGE,
                        original_width=HUGE,
                    )
                )
            ],
            r"result\[0\]",
        ),
        ("voc", "a.xml", tool_exports.voc("", width=HUGE, height=HUGE), "a.xml"),
        ("coco", "a.json", coco(HUGE, HUGE), r"images\[0\]"),
    ],
)
def test_masks_of_pictures_that_nothing_opens_are_not_made(tmp_path, format_name, file, content, place):
    tool_exports.write(tmp_path / file, content)
    with pytest.raises(ValueError, match=rf"{place}.*: {HUGE} x {HUGE} are more than"):
        read_labels(tmp_path, format_name, Notes())


# ------------------------------------------------------------------ places


def test_what_lies_outside():
    for name in ("../a.png", "a/../../b.png", "/etc/passwd", "..\\a.png", "C:\\a.png"):
        assert leads_out(name)
    for name in ("a.png", "b/a.png", "..a.png", "a..png", ".hidden/a.png"):
        assert not leads_out(name)


def test_links_and_paths_out_of_the_pictures_are_told(small: SmallSet, tmp_path, caplog):
    elsewhere, images = tmp_path / "elsewhere", small.root / "images"
    elsewhere.mkdir()
    (images / "b.png").rename(elsewhere / "b.png")
    inside, linked = images / "a.png", images / "linked"
    linked.symlink_to(elsewhere)
    assert outside([str(inside)], images) == []
    for name in ("linked/b.png", "../../elsewhere/b.png", str(elsewhere / "b.png"), "b.png"):
        if name == "b.png":
            (images / "b.png").symlink_to(elsewhere / "b.png")
        content = coco()
        content["images"][1]["file_name"] = name
        small.write(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            small.load()
        # Loaders say a thing once a process.
        if name == "linked/b.png":
            (said,) = [r.getMessage() for r in caplog.records if "outside of" in r.getMessage()]
            assert f"1 pictures lie outside of {images}" in said and f"{elsewhere / 'b.png'}:" in said
        assert outside([str(inside), os.path.join(images, name)], images) == [os.path.join(images, name)]
    # A whole folder of pictures may be a link: what is in it lies in it.
    (tmp_path / "photos").symlink_to(images)
    assert outside([str(tmp_path / "photos" / "a.png")], tmp_path / "photos") == []


def test_a_list_of_names_writes_no_files_elsewhere(tmp_path):
    lists = tmp_path / "VOC2010" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("../../2008_000002\n")
    with pytest.raises(ValueError, match=r"train\.txt: expected names such as 2008_000002, got '\.\./"):
        prepare(tmp_path / "VOC2010", tmp_path, tmp_path / "output", ["58"])


def test_tags_name_pictures_of_their_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "b.png").touch()
    (tmp_path / "tags.json").write_text(json.dumps({"../b.png": ["wheel"]}))
    with pytest.raises(ValueError, match=r"tags\.json: '\.\./b\.png': expected the name of a picture in"):
        read_tags(str(tmp_path / "tags.json"), str(tmp_path / "images"), ["wheel"])


def test_a_yolo_export_is_no_way_to_the_whole_disk(tmp_path):
    (tmp_path / "export").mkdir()
    tool_exports.write(tmp_path / "other" / "labels" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    for entry in ("/", "../"):
        tool_exports.write(tmp_path / "export" / "data.yaml", f"path: {entry}\ntrain: {entry}\nnames: [wheel]\n")
        notes = Notes()
        if entry == "/":
            with pytest.raises(ValueError, match=r"data\.yaml: train: expected a folder of images or a list"):
                read_labels(tmp_path / "export", "yolo", notes)
    tool_exports.write(tmp_path / "export" / "data.yaml", "train: ../other/labels\nnames: [wheel]\n")
    read_labels(tmp_path / "export", "yolo", notes)
    assert "1 splits were read outside of the folder of data.yaml." in notes.sentences()


def test_a_model_names_files_of_its_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.yaml").write_text("MODEL: {SAM: {WEIGHTS: ../sam.pth}}\n")
    (folder / "last_checkpoint").write_text("../other.pth")
    for name in ("sam.pth", "other.pth"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"model: holds no model\.safetensors"):
        find_pretrained(folder)
    (folder / "other.pth").touch()
    found = find_pretrained(folder)
    assert found.weights == folder / "other.pth" and found.opts == []


def test_pages_answer_this_machine_alone():
    assert parse("app", []).host == parse("label-studio", []).host == "127.0.0.1"


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF", "\\uD83D and more"])
def test_half_a_character_is_refused(tmp_path, half):
    """Python's readers take it for a text, which then no file can be named by and no log can tell."""
    for name, read in {"a.json": read_json, "a.yaml": read_yaml}.items():
        file = tmp_path / name
        for content in ('{"a": ["%s"]}', '{"%s": 1}'):
            file.write_text(content % half)
            with pytest.raises(ValueError, match=rf"labels .*{name}: no valid (json|YAML).*surrogates"):
                read(file, "labels")
        file.write_text('{"a": ["\\u00e9 \\\\ud800"]}')
        assert read(file, "labels") == {"a": ["\u00e9 \\ud800"]}
    file = tmp_path / "a.json"
    file.write_text('["\\ud83d\\ude00"]')
    assert read_json(file, "labels") == ["\U0001f600"]
