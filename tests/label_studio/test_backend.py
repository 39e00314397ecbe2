"""Label Studio's backend: what a project asks for, where its pictures are, and the answers, without and with HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from wps_sam.data.imports import Notes, read_labels
from wps_sam.label_studio import backend as backends
from wps_sam.label_studio.backend import Backend, precompute
from wps_sam.label_studio.labelling import read_labelling, unknown_labels, write_labelling
from wps_sam.label_studio.pictures import Pictures
from wps_sam.label_studio.server import make_server
from wps_sam.masks import mask_to_rle, segmentation_to_mask
from wps_sam.prediction import PartPrediction
from wps_sam.prompt_evaluation import Click

import numpy as np
import pytest
from PIL import Image
from prediction.prediction_scenes import HalvesPredictor

LABELLING = """<View>
  <Image name="img" value="$photo"/>
  <BrushLabels name="brush" toName="img"><Label value="Left Half"/><Label value="roof"/></BrushLabels>
  <RectangleLabels name="box" toName="img"><Label value="right half"/></RectangleLabels>
  <KeyPointLabels name="spot" toName="img"><Label value="right half"/></KeyPointLabels>
  <KeyPointLabels name="ask" toName="img" smart="true"><Label value="Left Half"/></KeyPointLabels>
</View>"""


class Halves(HalvesPredictor):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        (folder / "weights").write_bytes(b"weights")
        self.weights, self.encoder = str(folder / "weights"), None

    def __call__(self, image: Any) -> PartPrediction:
        return self.predict_batch([image])[0]


class OnePixel:
    """Sees one pixel where the first click is, or the box."""

    def __init__(self, encoder: None, image: np.ndarray) -> None:
        self.original_size = image.shape[:2]
        self.asked: list[Any] = []

    def mask(self, box: Any, clicks: list[Click]) -> np.ndarray:
        ASKED.append((box, clicks))
        mask = np.zeros(self.original_size, bool)
        if box is not None:
            x0, y0, x1, y1 = map(round, box)
            mask[y0:y1, x0:x1] = True
        elif clicks[0].inside:
            mask[int(clicks[0].y), int(clicks[0].x)] = True
        return mask


ASKED: list[Any] = []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with upload/3/a.png and a.png, 20 x 10 pixels."""
    folder = tmp_path / "photos"
    (folder / "upload" / "3").mkdir(parents=True)
    for name in ("upload/3/a.png", "a.png"):
        Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def backend(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(backends, "PromptedPicture", OnePixel)
    ASKED.clear()
    return Backend(Halves(tmp_path), Pictures([photos]))


def task(address: str = "/data/upload/3/a.png") -> dict[str, Any]:
    return {"id": 5, "data": {"photo": address}}


# ---------------------------------------------------------------- what a project asks for


def test_controls_are_read_with_their_names_and_labels() -> None:
    controls = read_labelling(LABELLING)
    assert [(c.kind, c.name, c.smart) for c in controls] == [
        ("brushlabels", "brush", False),
        ("rectanglelabels", "box", False),
        ("keypointlabels", "spot", False),
        ("keypointlabels", "ask", True),
    ]
    assert {(c.to_name, c.data_key) for c in controls} == {("img", "photo")}
    assert controls[0].label_of("left half") == "Left Half" and controls[0].label_of("right half") is None
    assert unknown_labels(controls, HalvesPredictor.class_names) == ["roof"]


def test_our_own_labelling_has_every_class() -> None:
    controls = read_labelling(write_labelling(HalvesPredictor.class_names))
    assert all(control.labels == HalvesPredictor.class_names for control in controls)
    assert [control.smart for control in controls] == [False, True, True]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<View>", "labelling configuration: no valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "expected no document type"),
        ("<View><Choices name='a' toName='b'/></View>", "expected one of BrushLabels, RectangleLabels, KeyPointLabels"),
    ],
)
def test_other_labellings_are_refused(xml: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_labelling(xml)


# ---------------------------------------------------------------- where pictures are


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/a.png",
        "/data/local-files/?d=upload/3/a.png",
        "a.png",
        "3/a.png",
        "http://ls:8080/data/upload/3/a.png",
    ],
)
def test_pictures_are_found_below_the_roots(address: str, photos: Path) -> None:
    assert Pictures([photos], "http://ls:8080").read(address).shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/data/local-files/?d=../secret.png", "a path must not lead upwards"),
        ("/data/upload/%2e%2e/secret.png", "a path must not lead upwards"),
        ("/data/upload/3/link.png", "not found below the folders of --root"),
        ("/data/upload/3/b.png", "not found below the folders of --root"),
        ("http://elsewhere/data/upload/3/a.png", r"loaded from Label Studio alone \(http://ls:8080\)"),
        ("https://ls:8080/data/upload/3/a.png", "loaded from Label Studio alone"),
        ("file:///etc/passwd", "loaded from Label Studio alone"),
    ],
)
def test_other_places_are_refused(address: str, message: str, photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (photos / "upload" / "3" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=message):
        Pictures([photos], "http://ls:8080").read(address)


@pytest.fixture
def label_studio(photos: Path) -> Iterator[str]:
    """Gives the photo at any address to who has the token, but points elsewhere from /moved."""
    content = (photos / "upload" / "3" / "a.png").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/data/a.png")
                self.end_headers()
                return
            known = self.headers["Authorization"] == "Token secret"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(content if known else b"")

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_label_studio_is_asked_with_the_token_and_followed_nowhere(label_studio: str) -> None:
    assert Pictures([], label_studio, "secret").read(f"{label_studio}/data/b.png").shape == (10, 20, 3)
    with pytest.raises(ValueError, match="answers 401 Unauthorized; set LABEL_STUDIO_API_KEY"):
        Pictures([], label_studio).read(f"{label_studio}/data/b.png")
    with pytest.raises(ValueError, match="answers 302"):
        Pictures([], label_studio, "secret").read(f"{label_studio}/moved")


# ---------------------------------------------------------------- answers


def test_parts_come_in_the_controls_that_have_a_label_for_them(backend: Backend) -> None:
    answer = backend.predict(task(), read_labelling(LABELLING))
    # The file is b"weights".
    assert answer["model_version"] == "wps-sam-9a129038" and answer["score"] == pytest.approx(0.65)
    brush, box, spot = answer["result"]
    assert all(region["to_name"] == "img" and region["original_width"] == 20 for region in answer["result"])
    assert (brush["from_name"], brush["type"], brush["value"]["brushlabels"]) == ("brush", "brushlabels", ["Left Half"])
    assert brush["score"] == pytest.approx(0.9) and brush["value"]["format"] == "rle"
    assert box["value"] == {
        "x": 50,
        "y": 0,
        "width": 50,
        "height": 100,
        "rotation": 0,
        "rectanglelabels": ["right half"],
    }
    # Columns 10 to 19, rows 0 to 9: five pixels from every side; of four such the first is (14, 4).
    assert (spot["value"]["x"], spot["value"]["y"]) == (72.5, 45) and spot["from_name"] == "spot"


def test_our_predictions_read_back_give_the_same_masks(backend: Backend, tmp_path: Path) -> None:
    names = HalvesPredictor.class_names
    mask = np.random.default_rng(0).random((10, 20)) < 0.5
    found = backend.predictor(np.zeros((10, 20, 3), np.uint8))
    found.coarse_masks[1] = mask
    backend.predictor = lambda image: found
    done, failed = precompute(backend, [task()["data"] | {"image": "a.png"}], "tasks", _brushes(names, "photo"))
    assert not failed
    # Accepted as it is, a prediction becomes an annotation.
    export = [{"data": done[0]["data"], "annotations": done[0]["predictions"], "id": 1}]
    (tmp_path / "export.json").write_text(json.dumps(export))
    (picture,) = read_labels(tmp_path / "export.json", "label_studio", Notes()).pictures
    assert [label.name for label in picture.labels] == found.names
    assert [label.segmentation for label in picture.labels] == [mask_to_rle(one) for one in found.masks]
    assert np.array_equal(segmentation_to_mask(picture.labels[1].segmentation, 10, 20), mask)


def _brushes(names: tuple[str, ...], key: str) -> Any:
    return read_labelling(write_labelling(names).replace("$image", f"${key}"))


def test_who_points_at_a_part_gets_its_mask(backend: Backend) -> None:
    controls = read_labelling(LABELLING)
    here = {"type": "keypointlabels", "value": {"x": 25, "y": 50, "keypointlabels": ["Left Half"]}}
    beside = {"type": "keypointlabels", "is_positive": 0, "value": {"x": 0, "y": 0, "keypointlabels": ["Left Half"]}}
    answer = backend.point_at(task(), controls, [here, beside])
    assert ASKED == [(None, [Click(5, 5, True), Click(0, 0, False)])]
    (region,) = answer["result"]
    assert region["from_name"] == "brush" and region["value"]["brushlabels"] == ["Left Half"]
    # The same picture is not encoded again; of boxes the label need not be one of the model's.
    (picture,) = backend._encoded.values()
    box = {
        "type": "rectanglelabels",
        "value": {"x": 10, "y": 20, "width": 50, "height": 40, "rectanglelabels": ["roof"]},
    }
    assert backend.point_at(task(), controls, [box])["result"][0]["value"]["brushlabels"] == ["roof"]
    assert ASKED[1] == ((2, 2, 12, 6), []) and list(backend._encoded.values()) == [picture]
    assert backend.point_at(task(), controls, [beside])["result"] == []
    with pytest.raises(ValueError, match="label 'wheel': expected it among the labels"):
        backend.point_at(task(), controls, [{**box, "value": {**box["value"], "rectanglelabels": ["wheel"]}}])
    with pytest.raises(ValueError, match=r"context.result\[0\].value: expected x and y as percents"):
        backend.point_at(task(), controls, [{**here, "value": {"x": "1"}}])


def test_precompute_keeps_tasks_and_tells_those_without_a_picture(backend: Backend) -> None:
    controls = read_labelling(LABELLING)
    done, failed = precompute(
        backend, [task(), task("/data/upload/3/b.png"), {"photo": "a.png"}], "tasks t.json", controls
    )
    assert [len(one["predictions"]) for one in done] == [1, 0, 1] and done[0]["id"] == 5
    assert len(failed) == 1 and failed[0].startswith("tasks t.json: task 5: picture /data/upload/3/b.png: not found")
    with pytest.raises(ValueError, match=r"tasks t.json: expected a list of tasks, got \{\}"):
        precompute(backend, {}, "tasks t.json", controls)


# ---------------------------------------------------------------- HTTP


@pytest.fixture
def served(backend: Backend) -> Iterator[str]:
    with make_server(backend, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(address: str, question: Any = None, kind: str = "application/json") -> tuple[int, Any]:
    data = None if question is None else json.dumps(question).encode()
    try:
        with urlopen(Request(address, data, {"Content-Type": kind})) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def test_label_studios_questions_are_answered(served: str) -> None:
    assert ask(f"{served}/health")[1]["status"] == "UP" and ask(f"{served}/")[0] == 200
    setup = {"project": "1.2", "schema": LABELLING, "hostname": "http://ls", "access_token": "t"}
    assert ask(f"{served}/setup", setup) == (200, {"model_version": "wps-sam-9a129038"})
    asked = {"tasks": [task(), task("b.png")], "label_config": LABELLING, "params": {"context": None}}
    status, answer = ask(f"{served}/predict", asked)
    assert status == 200 and [len(one["result"]) for one in answer["results"]] == [3, 0]
    here = {"type": "keypointlabels", "value": {"x": 25, "y": 50, "keypointlabels": ["Left Half"]}}
    status, answer = ask(f"{served}/predict", {**asked, "params": {"context": {"result": [here]}}})
    assert status == 200 and len(answer["results"]) == 1 and len(answer["results"][0]["result"]) == 1
    assert ask(f"{served}/train", {"annotations": []}) == ask(f"{served}/webhook", {"action": "x"}) == (200, {})


def test_wrong_questions_are_told(served: str) -> None:
    assert ask(f"{served}/nowhere")[0] == 404 and ask(f"{served}/nowhere", {})[0] == 404
    asked = {"tasks": [task("b.png")], "label_config": LABELLING}
    status, answer = ask(f"{served}/predict", asked)
    assert status == 400 and answer["error"].startswith("picture b.png: not found")
    assert ask(f"{served}/predict", {**asked, "tasks": 3})[1]["error"].startswith("/predict: tasks: expected a list")
    assert ask(f"{served}/setup", {})[1]["error"].startswith("schema: expected the labelling configuration")
    for params, message in (
        ([1], "params: expected"),
        ({"context": [1]}, "params.context: expected"),
        ({"context": {"result": 3}}, "params.context.result: expected a list, got 3"),
    ):
        status, answer = ask(f"{served}/predict", {**asked, "params": params})
        assert status == 400 and answer["error"].startswith(message), answer
    status, answer = ask(f"{served}/predict", {**asked, "params": {"context": {"result": ["x"]}}})
    assert status == 400 and "Traceback" not in answer["error"]
    # Such a question any web site could put through a browser.
    assert ask(f"{served}/predict", asked, kind="text/plain")[1]["error"] == "expected application/json, got text/plain"
