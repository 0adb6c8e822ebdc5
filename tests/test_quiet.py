"""A logger is still for a while, and then as it was."""

from __future__ import annotations

import logging

import pytest

from advconv_onnx.quiet import quiet


def fail_quietly(logger: logging.Logger) -> None:
    with quiet(logger.name):
        logger.warning("inside")
        raise RuntimeError


def test_a_logger_is_quiet_only_inside(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("a.library")
    with pytest.raises(RuntimeError):
        fail_quietly(logger)
    logger.warning("after")
    assert caplog.messages == ["after"]
