"""Decides what the name ``detectron2`` means: Detectron2 where it is installed, else our stand-in."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import multiprocessing
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

CHOICE_VARIABLE = "WPS_SAM_DETECTRON2"
INSTALLATION_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
STANDIN_DIR = Path(__file__).resolve().parent / "standin"
# Modules of ours that do not ask for Detectron2 when they are imported.
LIGHT = {"_detectron2", "cli", "paths", "stops", "user_errors"}


class StandinFinder(MetaPathFinder):
    """Finds the top-level module ``detectron2`` in our folder.

    Submodules need no finder: the package's search path leads Python's own one to them, and they get
    Detectron2's names, so that what is pickled under the stand-in can be read under the real one.

    Args:
        reason: why it is not Detectron2, told when the module is first looked for.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.told = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "detectron2":
            return None
        # A warning, since at import time no log level lets an info pass; once, not once a worker, and by the
        # name because a spawned process learns of its parent only later.
        if not self.told and multiprocessing.current_process().name == "MainProcess":
            logger.warning("%s: using the stand-in that comes with wps_sam (%s chooses)", self.reason, CHOICE_VARIABLE)
        self.told = True
        return importlib.util.spec_from_file_location(
            fullname, STANDIN_DIR / "__init__.py", submodule_search_locations=[str(STANDIN_DIR)]
        )


class CompanionFinder(MetaPathFinder):
    """Imports a module of ours right after ``detectron2``, whichever it is: what registers our data sets and models.

    Not where a module of ours asks for ``detectron2``: it would be half imported then, and it imports what it needs.
    """

    def __init__(self, companion: str) -> None:
        self.companion = companion
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "detectron2" or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_both(module: ModuleType) -> None:
                execute(module)
                ours = {name.partition(".")[2].partition(".")[0] for name in sys.modules if name.startswith("wps_sam.")}
                if ours <= LIGHT:
                    importlib.import_module(self.companion)

            spec.loader.exec_module = execute_both  # type: ignore[method-assign]
        return spec


class _ImportsPackage:
    """To be unpickled its module is imported, and this package with it, which puts the finder in place.

    It stays what it is, so that a process that was spawned can spawn others, such as a DataLoader's workers.
    """


def is_standin() -> bool:
    """True if ``detectron2`` is, or would be, our stand-in."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None and Path(spec.origin).parent == STANDIN_DIR


def _real_is_installed() -> bool:
    spec = importlib.util.find_spec("detectron2")
    # A folder of that name without an __init__.py (a source checkout next to the script) is a namespace
    # package without origin: importable, but empty.
    return spec is not None and spec.origin is not None and not is_standin()


def choose() -> str:
    """Puts ``detectron2`` in place as ``WPS_SAM_DETECTRON2`` says; returns ``"real"`` or ``"standin"``.

    ``auto`` (the default) takes Detectron2 if it is installed; ``real`` insists on it; ``standin`` never
    uses it. Calling it again changes nothing.

    Raises:
        ValueError: the variable holds another word.
        ImportError: ``real`` without Detectron2, or ``standin`` after Detectron2 was imported.
    """
    choice = os.environ.get(CHOICE_VARIABLE, "auto")
    if choice not in ("auto", "real", "standin"):
        raise ValueError(f"{CHOICE_VARIABLE}={choice!r}: expected auto, real or standin")
    if any(isinstance(finder, StandinFinder) for finder in sys.meta_path):
        return "standin"
    installed = _real_is_installed()
    if choice == "real" and not installed:
        raise ImportError(
            f"{CHOICE_VARIABLE}=real, but Detectron2 is not installed. How to install it: {INSTALLATION_GUIDE}"
        )
    if choice == "standin" and installed and "detectron2" in sys.modules:
        raise ImportError(f"{CHOICE_VARIABLE}=standin, but Detectron2 is imported already: import wps_sam first")
    if installed and choice != "standin":
        logger.info("Using the installed Detectron2")
        return "real"

    # First, because an empty namespace package of that name would otherwise be found before.
    sys.meta_path.insert(0, StandinFinder(f"Detectron2 is not {'asked for' if installed else 'installed'}"))
    sys.modules.pop("detectron2", None)
    # A spawned process (launch, DataLoader workers where fork is not the default) unpickles its work
    # before anything imports wps_sam, unless the main script does. Every process object carries its
    # parent's configuration, pickled before target and arguments: the import travels with it.
    multiprocessing.current_process()._config["wps_sam"] = _ImportsPackage()  # type: ignore[attr-defined]
    return "standin"


def import_with_it(companion: str) -> None:
    """Lets the module ``companion`` be imported with ``detectron2``; see :class:`CompanionFinder`."""
    if "detectron2" in sys.modules:
        importlib.import_module(companion)
    elif not any(isinstance(finder, CompanionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, CompanionFinder(companion))
