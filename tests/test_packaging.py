"""What setup.py installs is there, and every place that speaks of a version speaks of the same."""

from __future__ import annotations

import wps_sam  # isort: skip

import ast
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]


def setup_arguments() -> dict[str, Any]:
    """Keyword arguments of setup() that are plain literals, read without running setup.py."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup":
            arguments = {}
            for keyword in node.keywords:
                try:
                    arguments[str(keyword.arg)] = ast.literal_eval(keyword.value)
                except ValueError:
                    continue  # computed: packages, version, long_description
            return arguments
    raise AssertionError("setup.py calls no setup()")


def requirement_name(line: str) -> str:
    """ "torch>=2.4" to "torch", "Foo_Bar==1; python_version < '3.11'" to "foo-bar"."""
    return re.split(r"[=<>!~;\[ ]", line, maxsplit=1)[0].lower().replace("_", "-")


def test_package_data_exists() -> None:
    arguments = setup_arguments()
    for package, patterns in arguments["package_data"].items():
        folder = ROOT / arguments["package_dir"].get(package, package.replace(".", "/"))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: no file matches {pattern}"


def test_every_folder_with_code_is_a_package() -> None:
    """find_packages() passes silently over a folder without __init__.py, and an installation would lack it."""
    folders = {p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "wps_sam").rglob("*.py")}
    found = {name.replace(".", "/") for name in find_packages(str(ROOT), include=["wps_sam", "wps_sam.*"])}
    assert folders == found


def test_every_requirement_is_pinned_once_for_every_python() -> None:
    arguments = setup_arguments()
    wanted = {requirement_name(r) for r in arguments["install_requires"] + arguments["extras_require"]["dev"]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    names = [requirement_name(pin) for pin in pins if "python_version" not in pin]
    below = [requirement_name(pin) for pin in pins if 'python_version < "3.11"' in pin]
    above = [requirement_name(pin) for pin in pins if 'python_version >= "3.11"' in pin]
    assert below == above
    assert len(names + below) == len(set(names + below))
    assert wanted <= set(names + below)


def test_every_import_is_a_requirement() -> None:
    """What the package imports, setup.py asks for; nothing is asked for that only tests need."""
    distribution = {
        "cv2": "opencv-python-headless",
        "huggingface_hub": "huggingface-hub",
        "yaml": "pyyaml",
        "PIL": "pillow",
        "segment_anything": "segment-anything",
        "segmentation_models_pytorch": "segmentation-models-pytorch",
    }
    imported: set[str] = set()
    for path in [*(ROOT / "wps_sam").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"wps_sam", "detectron2"}
    arguments = setup_arguments()
    extras = arguments["extras_require"]
    asked = [
        *arguments["install_requires"],
        *(r for e in ("text", "rivals", "app", "supervision", "export") for r in extras[e]),
    ]
    required = {requirement_name(r) for r in asked}
    assert {distribution.get(name, name) for name in others} <= required
    # Not imported by us: torchvision by segment_anything, tensorboard by torch.utils.tensorboard.
    unused = required - {distribution.get(name, name) for name in others} - {"torchvision", "tensorboard"}
    assert not unused


def test_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert latest is not None
    assert latest.group(1) in {"Unreleased", wps_sam.__version__}
    assert f"[{wps_sam.__version__}]" in changelog


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "MODEL_ZOO.md"])
def test_links_between_our_files_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (ROOT / target).exists(), f"{name} links to {target}"


def test_the_model_zoo_names_the_weights_that_ship() -> None:
    """New weights under an old hash would stand beside figures that are not theirs."""
    zoo = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "wps_sam" / "weights").glob("*.safetensors"))
    assert files
    for path in files:
        (row,) = re.findall(rf"^\| `wps_sam/weights/{path.name}` .*$", zoo, re.MULTILINE)
        assert f"`{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}`" in row


def test_named_config_files_exist() -> None:
    """In documents, tools and the files themselves: a command that a reader copies must run."""
    texts = [*ROOT.glob("*.md"), ROOT / "Makefile", *(ROOT / "tools").glob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    for path in texts:
        for name in re.findall(r"configs/[\w/-]+\.yaml", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path.relative_to(ROOT)} names {name}"
