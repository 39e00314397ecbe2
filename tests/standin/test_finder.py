"""Which package the name ``detectron2`` means, and that the choice reaches spawned processes."""

from __future__ import annotations

import wps_sam  # isort: skip

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(wps_sam.__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden"

# The mechanism alone, without the package around it, which takes seconds to import.
MECHANISM = """
import logging, sys, types
logging.basicConfig(format="%(levelname)s %(name)s", level="INFO", stream=sys.stdout)
package = types.ModuleType("wps_sam")
package.__path__ = [r"{package}"]
sys.modules["wps_sam"] = package
from wps_sam import _detectron2
"""
# Where Detectron2 is installed, these tests must not see it.
HIDE = 'sys.modules["detectron2"] = None\n'


def python(code: str, cwd: Path, choice: str = "auto") -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in an interpreter of its own, in folder ``cwd``, whose modules it can import."""
    environment = os.environ | {"WPS_SAM_DETECTRON2": choice, "PYTHONPATH": f"{ROOT}{os.pathsep}{cwd}"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def mechanism(code: str, cwd: Path, choice: str = "auto") -> subprocess.CompletedProcess[str]:
    return python(MECHANISM.format(package=ROOT / "wps_sam") + textwrap.dedent(code), cwd, choice)


def installed(folder: Path) -> Path:
    """A package that passes for Detectron2."""
    (folder / "detectron2").mkdir()
    (folder / "detectron2" / "__init__.py").write_text("real = True\n")
    return folder


def test_detectron2_is_used_untouched_where_it_is_installed(tmp_path: Path) -> None:
    run = mechanism(
        """
        before = list(sys.meta_path)
        assert _detectron2.choose() == "real" and not _detectron2.is_standin()
        import detectron2
        assert detectron2.real and sys.meta_path == before
        """,
        installed(tmp_path),
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["INFO wps_sam._detectron2"]


@pytest.mark.parametrize("choice", ["auto", "standin"])
def test_standin_takes_the_place_of_a_missing_detectron2(tmp_path: Path, choice: str) -> None:
    run = mechanism(
        HIDE
        + """assert _detectron2.choose() == _detectron2.choose() == "standin" and _detectron2.is_standin()
import detectron2, detectron2.utils.registry
assert detectron2.__version__.endswith("+wps.sam")
assert detectron2.utils.registry.__name__ == "detectron2.utils.registry"
""",
        tmp_path,
        choice,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["WARNING wps_sam._detectron2"]


def test_standin_can_be_asked_for_beside_detectron2(tmp_path: Path) -> None:
    code = 'assert _detectron2.choose() == "standin"\nimport detectron2\nassert not hasattr(detectron2, "real")'
    run = mechanism(code, installed(tmp_path), "standin")
    assert run.returncode == 0, run.stderr


def test_a_folder_without_code_is_not_detectron2(tmp_path: Path) -> None:
    """A source checkout in the working folder can be imported as an empty namespace package."""
    (tmp_path / "detectron2").mkdir()
    # Also an editable installation's source folder.
    hide_installed = "from pathlib import Path\n"
    hide_installed += "sys.path = [p for p in sys.path if not Path(p, 'detectron2', '__init__.py').is_file()]\n"
    hide_installed += "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    run = mechanism(hide_installed + 'assert _detectron2.choose() == "standin"', tmp_path)
    assert run.returncode == 0, run.stderr


def test_insisting_on_a_missing_detectron2_names_its_guide(tmp_path: Path) -> None:
    run = mechanism(HIDE + "_detectron2.choose()", tmp_path, "real")
    message = run.stderr.splitlines()[-1]
    assert message.startswith("ImportError") and "detectron2.readthedocs.io" in message, run.stderr


def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    run = mechanism("_detectron2.choose()", tmp_path, "yes")
    assert run.stderr.splitlines()[-1] == ("ValueError: WPS_SAM_DETECTRON2='yes': expected auto, real or standin")


def test_choosing_the_standin_too_late_is_refused(tmp_path: Path) -> None:
    run = mechanism("import detectron2\n_detectron2.choose()", installed(tmp_path), "standin")
    assert run.stderr.splitlines()[-1].startswith("ImportError: WPS_SAM_DETECTRON2=standin"), run.stderr


def test_spawned_processes_and_pickles_find_the_standin(tmp_path: Path) -> None:
    """The module of the work says nothing of wps_sam, and there is no main script to import it again."""
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            """
            from detectron2.utils import comm
            from torch.utils.data import DataLoader

            def double(number):
                return 2 * number

            def meet(folder, dataset):
                numbers = comm.all_gather(dataset[comm.get_rank()])
                local = (comm.get_local_rank(), comm.get_local_size())
                seeds = comm.all_gather(comm.shared_random_seed())
                texts = comm.gather("x", dst=0)
                # A spawned process spawns one of its own.
                loaded = sum(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn"))
                with open(f"{folder}/rank{comm.get_rank()}", "w") as f:
                    f.write(f"{numbers} {local} {len(set(seeds))} {texts} {loaded}")
            """
        )
    )
    run = python(
        f"""
        import wps_sam, pickle
        import work
        from detectron2.data import MapDataset
        from detectron2.engine import launch
        launch(work.meet, 2, dist_url="auto", args=(r"{tmp_path}", MapDataset([1, 2], work.double)))
        with open(r"{GOLDEN / "instances.pkl"}", "rb") as f:
            found = pickle.load(f)
        print(type(found).__module__, found.pred_boxes.tensor.tolist(), found.gt_masks.polygons[0][0].tolist())
        """,
        tmp_path,
        "standin",
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "detectron2.structures.instances [[1.0, 2.0, 3.0, 4.0]] [0.0, 0.0, 4.0, 0.0, 4.0, 4.0]"
    ]
    assert run.stderr.count("using the stand-in") == 1
    assert (tmp_path / "rank0").read_text() == "[2, 4] (0, 2) 1 ['x', 'x'] 6"
    assert (tmp_path / "rank1").read_text() == "[2, 4] (1, 2) 1 [] 6"


@pytest.mark.parametrize("choice", ["auto", "standin"])
def test_a_companion_is_imported_right_after_detectron2(tmp_path: Path, choice: str) -> None:
    (tmp_path / "companion.py").write_text("import detectron2, sys\nprint('registered')\n")
    run = mechanism(
        """
        _detectron2.choose()
        _detectron2.import_with_it("companion")
        assert "companion" not in sys.modules and "detectron2" not in sys.modules
        import detectron2
        import detectron2 as again
        assert again is detectron2 is sys.modules["companion"].detectron2
        """,
        installed(tmp_path),
        choice,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1:] == ["registered"]


def test_a_module_of_ours_that_asks_for_detectron2_imports_what_it_needs_itself(tmp_path: Path) -> None:
    (tmp_path / "companion.py").write_text("raise AssertionError('a circle')")
    run = mechanism(
        """
        _detectron2.choose()
        _detectron2.import_with_it("companion")
        sys.modules["wps_sam.structures"] = types.ModuleType("wps_sam.structures")
        import detectron2
        """,
        installed(tmp_path),
    )
    assert run.returncode == 0, run.stderr


def test_import_is_light_and_registers_with_detectron2(tmp_path: Path) -> None:
    run = python(
        """
        import sys, wps_sam
        assert not {"torch", "numpy", "detectron2"} & set(sys.modules)
        from detectron2.data import DatasetCatalog
        from detectron2.modeling import META_ARCH_REGISTRY
        assert "partimagenet_val" in DatasetCatalog.list() and "WPSSAM" in META_ARCH_REGISTRY
        assert wps_sam.PartPredictor.__module__ == "wps_sam.predictor"
        """,
        tmp_path,
    )
    assert run.returncode == 0, run.stderr
