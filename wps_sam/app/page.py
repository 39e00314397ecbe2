"""The page itself: Gradio's widgets, tied to the functions of ``scene``, ``drawing`` and ``files``."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from ..predictor import PartPredictor
from ..prompt_evaluation import Click
from ..user_errors import USER_ERRORS, one_line
from . import scene as scenes
from .drawing import STYLE, draw, label
from .files import Limits, check_upload, write_downloads
from .scene import Scene

# What the model is asked for: less sure parts can't be had by the slider.
LOWEST_CONFIDENCE = 0.1
# What a click does; a drawn box makes a new part or, otherwise, is the chosen part's new box.
CHOOSE, ADD, TAKE, START = "choose a part", "add to the chosen part", "take away from it", "start a new part"
# A scene and its photo are forgotten so many seconds after they were last used.
_KEPT = 3600
_HELP = """
Point at a part for its name. **Click** it to choose it; then click what it lacks to **add** that (green), and what is
too much to **take** it **away** (red), or **draw a box** around all of it. A click or a box starts a new part, too.
"""
_STYLE = """
#shown .wrap { max-height: 32vh; overflow-y: auto }
#action .wrap { gap: .4em }
"""


def serve(predictor: PartPredictor, host: str, port: int, limits: Limits, confidence: float) -> None:
    """Shows the page at http://host:port until Ctrl-C; what was uploaded is then removed.

    Args:
        predictor: with a SAM that can be asked, and the smallest confidence of any part that is shown.
        host: address that is listened to.
        port: of it.
        limits: of uploads.
        confidence: where the slider stands at first.

    Raises:
        ValueError: the model has no SAM.
        OSError: the port is taken.
    """
    # Nothing is sent to the makers of Gradio.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="wps_sam_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(predictor, limits, confidence, Path(folder))
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            # Otherwise a browser fetches fonts from the network.
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=STYLE + _STYLE,
            max_file_size=limits.bytes,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"The page is at {page.local_url} until Ctrl-C", flush=True)
        page.block_thread()


def build_page(predictor: PartPredictor, limits: Limits, confidence: float, folder: Path) -> gr.Blocks:
    """The page as Gradio's Blocks; downloads are written below ``folder``."""
    encoder = predictor.encoder

    def told(act: Callable[..., Any]) -> Callable[..., Any]:
        """A user's mistakes are said on the page, which stays as it is."""

        @functools.wraps(act)
        def wrapped(*args: Any) -> Any:
            try:
                return act(*args)
            except USER_ERRORS as error:
                # A gr.Error would mark every field of the page with "Error".
                gr.Warning(one_line(error), duration=8, title="Not done")
                return gr.skip()

        return wrapped

    def view(scene: Scene | None, *, lists: bool = True) -> list[Any]:
        """New contents of ``everything`` below; with ``lists`` those of the lists beside the photo, too."""
        if scene is None:
            return [None, draw(None), gr.update(choices=[], value=[]), gr.update(choices=[], value=None)]
        listed = [(label(scene, part), part.number) for part in scene.listed]
        shown = gr.update(choices=listed, value=[part.number for part in scene.shown]) if lists else gr.skip()
        return [scene, draw(scene), shown, gr.update(choices=listed, value=scene.chosen)]

    @told
    def upload(path: str, confidence: float) -> list[Any]:
        check_upload(Path(path), limits)
        try:
            found = predictor(path)
        except ValueError as error:
            # Where the page keeps it is nobody's business.
            raise ValueError(str(error).replace(path, Path(path).name)) from error
        scene = scenes.opened(found, scenes.asker(encoder, found), confidence)
        # Another photo may be dropped at once; what was made of the last one is gone.
        return [*view(scene), CHOOSE, None, gr.update(value=None, visible=False)]

    @told
    def mark(scene: Scene | None, action: str, class_id: int, event: gr.EventData) -> list[Any]:
        if scene is None:
            return [*view(None), action]
        x0, y0, x1, y1 = event.x0, event.y0, event.x1, event.y1
        is_box = x0 < x1 and y0 < y1
        x, y = int(x0), int(y0)
        if action == START:
            place = (x0, y0, x1, y1) if is_box else Click(x, y, True)
            return [*view(scenes.started(scene, class_id, place)), ADD]
        if is_box:
            return [*view(scenes.boxed(scene, (x0, y0, x1, y1))), ADD]
        if action == CHOOSE:
            return [*view(scenes.chosen_at(scene, x, y)), action]
        return [*view(scenes.clicked(scene, Click(x, y, action == ADD))), action]

    @told
    def download(scene: Scene | None) -> Any:
        if scene is None:
            raise ValueError("no photo: drop one first")
        made = write_downloads(scenes.result(scene), Path(tempfile.mkdtemp(dir=folder)))
        return gr.update(value=[str(path) for path in made], visible=True)

    def change(act: Callable[..., Scene], *, lists: bool = True) -> Callable[..., list[Any]]:
        return lambda scene, *args: view(scene and act(scene, *args), lists=lists)

    with gr.Blocks(title="WPS-SAM", analytics_enabled=False, delete_cache=(_KEPT, _KEPT), fill_width=True) as page:
        state = gr.State(None, time_to_live=_KEPT)
        with gr.Row():
            with gr.Column(scale=3):
                gr.Markdown(_HELP)
                with gr.Row(equal_height=True):
                    action = gr.Radio([CHOOSE, ADD, TAKE, START], value=CHOOSE, label="A click is to", elem_id="action")
                    names = [(name, c) for c, name in enumerate(predictor.class_names)]
                    of_new = gr.Dropdown(names, value=0, label="A new part is", scale=0, min_width=200)
                script = Path(__file__).with_name("picture.js").read_text(encoding="utf-8")
                picture = gr.HTML(draw(None), js_on_load=script)
            with gr.Column(scale=1, min_width=320):
                about = f"Photo, up to {limits.megabytes:g} MB and {limits.megapixels:g} megapixels"
                photo = gr.File(label=about, height=150, elem_id="photo")
                surest = gr.Slider(LOWEST_CONFIDENCE, 1, confidence, step=0.01, label="Confidence of at least")
                chosen = gr.Dropdown([], label="Chosen part", elem_id="chosen")
                undo = gr.Button("Undo the last click or box", size="sm", elem_id="undo")
                shown = gr.CheckboxGroup([], label="Parts that are shown", elem_id="shown")
                make = gr.Button("Prepare the downloads", variant="primary", elem_id="make")
                made = gr.File(
                    label="Masks (COCO JSON), label picture, drawing", interactive=False, visible=False, elem_id="made"
                )

        everything = [state, picture, shown, chosen]
        # One question to the model at a time; the rest waits for nobody.
        asks = dict(concurrency_id="model", concurrency_limit=1, api_visibility="private")
        quick = dict(show_progress="hidden", api_visibility="private")
        photo.upload(upload, [photo, surest], [*everything, action, photo, made], **asks)
        picture.mark(mark, [state, action, of_new], [*everything, action], show_progress="hidden", **asks)
        undo.click(change(scenes.undone), [state], everything, **quick)
        surest.release(change(scenes.with_confidence), [state, surest], everything, **quick)
        shown.input(change(scenes.showing, lists=False), [state, shown], everything, **quick)
        chosen.input(change(scenes.chosen_number), [state, chosen], everything, **quick)
        make.click(download, [state], [made], api_visibility="private")
    return page
