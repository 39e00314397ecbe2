"""The page in a real browser: a photo in, a part hidden and one corrected, files out; nothing from the network.

Needs gradio, playwright and a chromium, none of which the other tests need: skipped where one is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from wps_sam.cli import main

import pytest

ROOT = Path(__file__).resolve().parents[2]
WOMAN = ROOT / "docs" / "photo.jpg"


def test_a_missing_gradio_is_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "wps_sam.app.page", raising=False)
    assert main(["app"]) == 2
    assert capsys.readouterr().err == 'error: wps-sam app needs the package gradio: pip install ".[app]" in the clone\n'


def test_a_photo_that_cannot_be_read_is_told_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gr = pytest.importorskip("gradio")
    from wps_sam.app.files import Limits
    from wps_sam.app.page import build_page
    from wps_sam.masks import read_rgb

    class Reads:
        encoder, class_names = None, ("hair",)

        def __call__(self, path: str) -> None:
            read_rgb(path)

    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: told.append(message))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(WOMAN.read_bytes()[:9000])
    page = build_page(Reads(), Limits(20, 50), 0.4, tmp_path)
    (upload,) = (one.fn for one in page.fns.values() if one.name == "upload")
    # Nothing on the page is changed or marked, and where it keeps the file is nobody's business.
    assert upload(str(broken), 0.4) == gr.skip()
    assert len(told) == 1 and told[0].startswith("image broken.jpg: cannot be decoded") and str(tmp_path) not in told[0]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    # The photo has 0.21 megapixels and 46 kB.
    command = [sys.executable, "-m", "wps_sam", "app", "--port", str(port), "--max-megapixels", "0.25"]
    command += ["--max-megabytes", "0.1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert f"http://127.0.0.1:{port}" in server.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def wait_until(fits: Any) -> None:
    end = time.monotonic() + 60
    while not fits():
        assert time.monotonic() < end, "it did not happen within a minute"
        time.sleep(0.1)


def test_a_photo_is_looked_at_corrected_and_taken_home(address: str, browser: Any, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.set_input_files("#photo input[type=file]", str(WOMAN))
    shapes = page.locator(".scene path")
    shapes.first.wait_for()
    count = shapes.count()
    assert count > 5

    # The first of the list is hidden.
    page.locator("#shown input").first.uncheck()
    wait_until(lambda: shapes.count() == count - 1)

    frame, (_, _, width, height) = (
        page.locator(".scene svg").bounding_box(),
        map(float, page.locator(".scene svg").get_attribute("viewBox").split()),
    )
    scale = min(frame["width"] / width, frame["height"] / height)
    left, top = frame["x"] + (frame["width"] - scale * width) / 2, frame["y"] + (frame["height"] - scale * height) / 2

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * scale, top + y * scale

    page.mouse.move(*at(160, 330))
    assert re.fullmatch(r"\d+\. \w+, 0\.\d\d", page.locator(".tip").inner_text())
    page.mouse.click(*at(160, 330))
    page.locator("path.chosen").wait_for()
    before = page.locator("path.chosen").get_attribute("d")
    page.get_by_label("take away from it").click()
    page.mouse.click(*at(190, 400))
    page.locator("circle.click").wait_for()
    assert page.locator("path.chosen").get_attribute("d") != before
    page.locator("#undo").click()
    wait_until(lambda: page.locator("circle.click").count() == 0)

    # A box makes a new part.
    page.get_by_label("start a new part").click()
    page.mouse.move(*at(150, 45))
    page.mouse.down()
    page.mouse.move(*at(216, 125))
    page.mouse.up()
    page.locator("rect.box").wait_for()
    assert shapes.count() == count

    page.locator("#make").click()
    links = page.locator("#made a")
    links.first.wait_for()
    with page.expect_download() as download:
        links.first.click()
    assert download.value.suggested_filename == "all_parts.coco.json"
    assert '"name": "skin"' in Path(download.value.path()).read_text()
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()
    page.close()


def test_what_is_too_large_is_told_on_the_page(address: str, browser: Any, tmp_path: Path) -> None:
    from PIL import Image

    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    Image.new("RGB", (600, 500)).save(tmp_path / "wide.png")
    page.set_input_files("#photo input[type=file]", str(tmp_path / "wide.png"))
    page.get_by_text("0.3 megapixels; this page takes pictures up to 0.25").wait_for()
    page.reload()
    (tmp_path / "heavy.jpg").write_bytes(WOMAN.read_bytes() + bytes(200_000))
    page.set_input_files("#photo input[type=file]", str(tmp_path / "heavy.jpg"))
    page.get_by_text(re.compile("exceed|larger than|too large", re.IGNORECASE)).first.wait_for()
    page.reload()
    # One message, which does not say where the page keeps files.
    (tmp_path / "broken.jpg").write_bytes(WOMAN.read_bytes()[:9000])
    page.set_input_files("#photo input[type=file]", str(tmp_path / "broken.jpg"))
    page.get_by_text(re.compile(r"^image broken\.jpg: ")).wait_for()
    assert page.get_by_text("wps_sam_app_").count() == page.get_by_text("Error", exact=True).count() == 0
    page.close()


def test_the_page_is_for_this_machine(address: str) -> None:
    from wps_sam.cli import parse

    assert parse("app", []).host == "127.0.0.1"
    with urlopen(address) as answer:
        assert "fonts.googleapis" not in answer.read().decode()
