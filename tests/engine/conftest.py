"""What tests of the engine share."""

from __future__ import annotations

import logging

from wps_sam.data import register_descriptions

import pytest
from toy_parts import TOY


@pytest.fixture
def log(caplog):
    """Texts logged by wps_sam, which setup_logger has cut off from the root logger."""
    logger = logging.getLogger("wps_sam")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture
def toy_cfg(tiny_cfg, tiny_parts):
    register_descriptions([str(tiny_parts.description)])
    return lambda *opts: tiny_cfg(*TOY, *opts)
