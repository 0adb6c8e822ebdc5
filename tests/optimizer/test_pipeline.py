"""``optimize`` from file to file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import advconv_onnx
from advconv_onnx.errors import InputError
from advconv_onnx.optimizer import pipeline
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.optimizer.networks import paddle_block


def test_fuse_writes_an_equal_smaller_model_and_leaves_the_input_alone(tmp_path: Path) -> None:
    source, target = paddle_block(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    before = source.read_bytes()
    report = advconv_onnx.optimize(source, target, level="fuse")
    assert source.read_bytes() == before
    onnx.checker.check_model(target, full_check=True)
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 11)).astype(np.float32)
    ours, theirs = (run_session(open_session(path), {"x": x})["y"] for path in (target, source))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.ptp(theirs))
    assert (report.model.nodes, report.optimized.nodes) == (9, 3)
    assert report.measurement is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]


def test_search_measures_what_it_wrote_against_the_users_own_file(tmp_path: Path) -> None:
    source = paddle_block(tmp_path / "m.onnx")
    report = advconv_onnx.optimize(
        source, tmp_path / "out.onnx", inputs={"x": (1, 3, 32, "W")}, time_limit=4
    )
    assert report.measurement is not None
    assert [timing.name for timing in report.measurement.timings] == ["original", "optimized"]
    assert not report.measurement.failures
    (shape,) = {tuple(v.shape or ()) for v in advconv_onnx.load(tmp_path / "out.onnx").graph.inputs}
    assert shape[:3] == (1, 3, 32)
    assert str(shape[3]) == "W"


def test_optimizing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    advconv_onnx.optimize(paddle_block(tmp_path / "m.onnx"), once, level="fuse")
    report = advconv_onnx.optimize(once, twice, level="fuse")
    assert not [r for r in report.rewrites if r.nodes and r.status == "applied"]
    nodes = [[node.SerializeToString() for node in onnx.load(p).graph.node] for p in (once, twice)]
    assert nodes[0] == nodes[1]


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    source = paddle_block(tmp_path / "m.onnx")
    (tmp_path / "link.onnx").symlink_to(source)
    for target in (source, tmp_path / "link.onnx"):
        with pytest.raises(InputError, match="input model"):
            advconv_onnx.optimize(source, target)


def test_a_network_that_gives_constants_is_judged_inside(tmp_path: Path) -> None:
    """A saturated Sigmoid hides the difference that its input shows."""
    source = paddle_block(tmp_path / "m.onnx")
    model = onnx.load(source)
    model.graph.node.append(onnx.helper.make_node("Mul", ["y", "huge"], ["far"], "far"))
    model.graph.node.append(onnx.helper.make_node("Abs", ["far"], ["positive"], "abs"))
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["positive"], ["z"], "gate"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([1e6]), "huge"))
    model.graph.output[0].name = "z"
    onnx.save(model, source)
    report = advconv_onnx.optimize(source, tmp_path / "out.onnx", level="fuse")
    assert report.validation.passed
    assert any(check.stands_for == "z" for check in report.validation.checks)


def test_a_cache_that_cannot_be_used_is_reported_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.sqlite"
    cache.write_text("no database")
    monkeypatch.setenv("ADVCONV_CACHE", str(cache))
    source = paddle_block(tmp_path / "m.onnx")
    report = advconv_onnx.optimize(source, tmp_path / "out.onnx", inputs={"x": (1, 3, 8, 8)})
    [kept] = [r for r in report.rewrites if r.rule == "keep_figures"]
    assert kept.status == "refused"
    assert "cache.sqlite" in kept.reason
    assert cache.read_text() == "no database"


def test_a_time_limit_leaves_time_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    class Noted(pipeline.Search):
        def __init__(self, model, inputs, options, deadline, *rest):
            limits.append(deadline)
            super().__init__(model, inputs, options, deadline, *rest)

    monkeypatch.setattr(pipeline, "Search", Noted)
    source = paddle_block(tmp_path / "m.onnx")
    options = {"inputs": {"x": (1, 3, 8, 8)}, "time_limit": 1000.0}
    before = time.monotonic()
    advconv_onnx.optimize(source, tmp_path / "out.onnx", **options)
    [limit] = limits
    assert before + 700 <= limit <= time.monotonic() + 700
