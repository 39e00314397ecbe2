"""What tests of the engine share."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def log(caplog):
    """Texts logged by wps_sam, which setup_logger has cut off from the root logger."""
    logger = logging.getLogger("wps_sam")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
