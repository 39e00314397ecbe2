"""A model whose graph is small: two layers at 128 pixels, with everything that the shipped one has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from wps_sam import PartPredictor
from wps_sam.config import add_wps_sam_config
from wps_sam.data.synthetic import generate
from wps_sam.encoders.build_sam import SAM_ARCHS, SamArch

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from export_scenes import NAMES
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def small_arch() -> Iterator[None]:
    """MODEL.SAM.ARCH vit_small_test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAM_ARCHS, "vit_small_test", SamArch(128, 32, 2, 2, (1,), 3, 32))
        yield


@pytest.fixture(scope="session")
def small_predictor(small_arch: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PartPredictor]:
    """``small_predictor(*opts)``: with random weights that find parts everywhere; ``exif`` of its labels."""

    def make(*opts: object, exif: str | None = None) -> PartPredictor:
        folder = tmp_path_factory.mktemp("small_model")
        cfg = get_cfg()
        add_wps_sam_config(cfg)
        cfg.merge_from_list(
            [
                *("MODEL.DEVICE", "cpu", "MODEL.SAM.ARCH", "vit_small_test", "MODEL.SAM.WEIGHTS", ""),
                *("MODEL.PROMPTER.NUM_CLASSES", len(NAMES), "MODEL.INFERENCE.MAX_PARTS", 5),
                *opts,
            ]
        )
        torch.manual_seed(0)
        model = build_model(cfg)
        for name, parameter in model.named_parameters():
            if "class_head" in name or "part_head" in name:
                parameter.data.normal_(std=0.5)
        (folder / "config.yaml").write_text(cfg.dump())
        said = {"class_names": json.dumps(NAMES)} | ({} if exif is None else {"exif": json.dumps(exif)})
        save_file(model.state_dict(), folder / "model.safetensors", said)
        return PartPredictor(folder / "config.yaml", folder / "model.safetensors")

    return make


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Portrait, landscape and thin, at odd sizes, of 100 to 300 pixels: uint8 [H, W, 3]."""
    sizes = ((149, 111), (97, 301), (203, 37))
    made = (generate(np.random.default_rng(seed)).image for seed in range(len(sizes)))
    return [np.asarray(Image.fromarray(image).resize((w, h))) for image, (h, w) in zip(made, sizes)]


@pytest.fixture(scope="session")
def photo_folder(pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that lies on its side, with an EXIF tag that says so."""
    folder = tmp_path_factory.mktemp("photos")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pictures[0]).save(folder / "lying.png", exif=exif)
    return folder
