"""tools/import_labels.py: from the files of a tool to a data set that our loader reads."""

from __future__ import annotations

import runpy
from pathlib import Path

from wps_sam.data import register_descriptions
from wps_sam.data.sources.descriptions import read_description

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tool_exports import cvat, cvat_image, labelme, labelme_shape, picture, write

run = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "import_labels.py"))["main"]

SHAPES = (
    '<box label="wheel" xtl="1" ytl="2" xbr="9" ybr="8"/><points label="window" points="3.5,4.5"/><tag label="window"/>'
)


def test_what_it_writes_is_read_by_our_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcde":
        picture(tmp_path / "photos" / f"{name}.jpg")
    source = write(tmp_path / "annotations.xml", cvat("".join(cvat_image(f"{n}.jpg", SHAPES) for n in "abcde")))
    arguments = [str(source), "--images", str(tmp_path / "photos"), "--name", "from_cvat", "--val-share", "0.4"]
    assert run([*arguments, "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "description.yaml: from cvat, 5 pictures (train 3, val 2), 0 of them without labels." in told
    assert told.count("\n") == 1
    names = register_descriptions([str(tmp_path / "out" / "description.yaml")])
    try:
        assert names == ["from_cvat_train", "from_cvat_val"]
        assert MetadataCatalog.get(names[0]).thing_classes == ["wheel", "window"]
        records = [record for name in names for record in DatasetCatalog.get(name)]
        assert sorted(Path(record["file_name"]).name for record in records) == [f"{n}.jpg" for n in "abcde"]
        for record in records:
            box, point = record["annotations"]
            assert box["bbox"] == [1, 2, 8, 6] and box["category_id"] == 0
            assert point["point"] == [3, 4] and point["category_id"] == 1 and record["tags"] == [1]
    finally:
        for name in names:
            DatasetCatalog.remove(name)


@pytest.mark.parametrize("below", [True, False])
def test_a_folder_that_holds_its_pictures_can_be_moved(tmp_path: Path, below: bool) -> None:
    made = tmp_path / "made"
    photos = (made if below else tmp_path) / "photos"
    picture(photos / "a.jpg")
    source = write(tmp_path / "boxes.csv", "file,part,x,y,width,height\na.jpg,wheel,1,2,8,6\n")
    assert run([str(source), "--images", str(photos), "--name", "moved", "--output", str(made)]) == 0
    made.rename(tmp_path / "elsewhere")
    description = str(tmp_path / "elsewhere" / "description.yaml")
    if not below:
        with pytest.raises(ValueError, match=r"splits\.train: .*made/train\.json"):
            read_description(description)
        return
    (train,) = read_description(description).splits
    assert Path(train.json_file).samefile(tmp_path / "elsewhere" / "train.json")
    assert Path(train.images).samefile(tmp_path / "elsewhere" / "photos")


def test_pictures_lie_beside_the_labels_and_what_is_wrong_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.json", labelme(labelme_shape("wheel", "rectangle", [[1, 2], [9, 8]])))
    arguments = [str(tmp_path / "in"), "--name", "from_labelme", "--output", str(tmp_path / "out")]
    assert run(arguments) == 2
    assert "in: no picture in this folder" in capsys.readouterr().err
    picture(tmp_path / "in" / "a.jpg")
    assert run([*arguments, "--format", "labelme", "--classes", "window", "wheel"]) == 0
    assert "from labelme, 1 pictures" in capsys.readouterr().out
    assert run([*arguments, "--format", "cvat"]) == 2
    assert "no file of the format cvat" in capsys.readouterr().err
    # Files that it did not write are not replaced.
    (tmp_path / "out" / "train.json").write_text("{}")
    assert run(arguments) == 2
    assert "train.json: exists, and was not made by a tool of this project" in capsys.readouterr().err
