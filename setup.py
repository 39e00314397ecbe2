"""Installs WPS-SAM: the package, its configs, vocabularies and shipped weights.

Detectron2 is deliberately not a requirement: it is not on the package index. Where it is installed it is
used, elsewhere the package brings a stand-in (see CONTRIBUTING.md).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """``__version__`` of wps_sam/__init__.py, read as text: importing it needs torch, which may not be here yet."""
    source = (ROOT / "wps_sam" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise ValueError('wps_sam/__init__.py: found no line of the form __version__ = "1.2.3"')
    return match.group(1)


setup(
    name="wps_sam",
    version=read_version(),
    description="Weakly supervised part segmentation with SAM: boxes or points in training, part masks out",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # configs/ and datasets/ lie at the root, where users look for them, and are installed in wps_sam/.
    packages=[*find_packages(include=["wps_sam", "wps_sam.*"]), "wps_sam.configs", "wps_sam.datasets"],
    package_dir={"wps_sam.configs": "configs", "wps_sam.datasets": "datasets"},
    package_data={
        "wps_sam": ["app/*.js", "data/vocabularies/*.yaml", "weights/*", "weights/semantic/*"],
        "wps_sam.configs": ["*.yaml", "*/*.yaml", "*/*/*.yaml"],
        "wps_sam.datasets": ["README.md", "*.yaml", "embeddings/*"],
    },
    entry_points={"console_scripts": ["wps-sam = wps_sam.cli:main"]},
    install_requires=[
        # --mirror; PyTorch brings it along, too.
        "fsspec",
        "fvcore",
        # PartPredictor.from_pretrained; timm brings it along, too.
        "huggingface_hub",
        "iopath",
        "matplotlib",
        "numpy",
        # Without a window system: the plain opencv-python needs libGL, which servers and containers lack.
        "opencv-python-headless",
        "pillow",
        "pycocotools",
        "PyYAML",
        "safetensors",
        "scipy",
        "segment-anything",
        "tabulate",
        "tensorboard",
        "termcolor",
        # Networks that know what things are; a small one ships.
        "timm>=1.0.20",
        "torch>=2.4",
        "torchvision",
        "tqdm",
        "xxhash",
    ],
    extras_require={
        # Names as text embeddings (wps-sam names), CLIPSeg, CATSeg, ZSSeg and Mask2Former.
        "text": ["transformers>=5.6"],
        # U-Net and DeepLabV3+, with which configs/rivals/ compares.
        "rivals": ["segmentation-models-pytorch"],
        # The page of wps-sam app.
        "app": ["gradio>=6.31"],
        # PartPrediction.to_supervision().
        "supervision": ["supervision"],
        # make docs.
        "docs": ["mkdocs-material"],
        # wps-sam export, and its files at work; who only uses them needs onnxruntime alone.
        "export": ["onnx", "onnxruntime", "onnxscript"],
        "dev": [
            "hypothesis",
            "mypy",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "pytest",
            "pytest-xdist",
            "ruff",
            "segmentation-models-pytorch",
            "transformers>=5.6",
            "types-PyYAML",
        ],
    },
)
