"""Files: what loads, what is refused in one line, and that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

CONV = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x) => (float[N, 4, P, Q] y) { y = Conv(x, w) }"""
WEIGHT = normal(4, 3, 3, 3)


def proto_of(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    return ir.to_proto(parse(text, **weights))


@pytest.fixture
def inline(tmp_path: Path) -> Path:
    path = tmp_path / "inline.onnx"
    onnx.save(proto_of(CONV, w=WEIGHT), path)
    return path


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weight is in ``weights.bin``."""
    path = tmp_path / "external.onnx"
    onnx.save(
        proto_of(CONV, w=WEIGHT),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return path


def redirect(path: Path, **entries: str) -> None:
    """Change what the external model says about where its weight is."""
    proto = onnx.load(path, load_external_data=False)
    (weight,) = proto.graph.initializer
    for entry in weight.external_data:
        entry.value = entries.get(entry.key, entry.value)
    onnx.save(proto, path)


def run(model: ir.Model | Path) -> np.ndarray:
    (y,) = open_session(model).run(None, {"x": normal(2, 3, 5, 6, seed=1)})
    return y


def one_line(error: pytest.ExceptionInfo[InputError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


# Loading


def test_external_data_is_not_read_while_loading(
    external: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    numpy = ir.ExternalTensor.numpy
    monkeypatch.setattr(ir.ExternalTensor, "numpy", lambda self: read.append(self) or numpy(self))
    monkeypatch.setattr(ir.ExternalTensor, "_load", lambda self: read.append(self))
    tensor = files.load(external).graph.initializers["w"].const_value
    assert not read
    monkeypatch.undo()
    assert np.array_equal(tensor.numpy(), WEIGHT)


@pytest.mark.parametrize("location", ["../weights.bin", "sub/../../weights.bin", "/weights.bin"])
def test_external_data_outside_the_models_folder_is_refused(external: Path, location: str) -> None:
    redirect(external, location=location)
    with pytest.raises(InputError, match="outside the model's folder") as error:
        files.load(external)
    assert location in one_line(error, external)


def test_missing_external_data_is_named(external: Path) -> None:
    (external.parent / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"'weights\.bin'.*'w' is missing") as error:
        files.load(external)
    one_line(error, external)


def test_truncated_external_data_is_refused(external: Path) -> None:
    os.truncate(external.parent / "weights.bin", WEIGHT.nbytes - 1)
    with pytest.raises(InputError, match="has 431 bytes, initializer 'w' needs 432") as error:
        files.load(external)
    one_line(error, external)


@pytest.mark.parametrize("entry", [{"offset": "4"}, {"length": "400"}, {"length": "0"}])
def test_external_data_that_does_not_fit_the_shape_is_refused(
    external: Path, entry: dict[str, str]
) -> None:
    if entry == {"length": "0"}:
        os.truncate(external.parent / "weights.bin", 0)
    redirect(external, **entry)
    with pytest.raises(InputError) as error:
        files.load(external)
    one_line(error, external)


def test_data_that_does_not_fit_its_shape_is_refused(inline: Path) -> None:
    proto = onnx.load(inline)
    proto.graph.initializer[0].dims[0] = 5
    onnx.save(proto, inline)
    with pytest.raises(InputError, match=r"'w' does not fit its shape \(5x3x3x3\)") as error:
        files.load(inline)
    one_line(error, inline)


def test_external_data_of_a_body_is_checked(external: Path) -> None:
    body = onnx.load(external, load_external_data=False).graph
    del body.input[:]
    outer = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 5, 5] x, bool p) => '
        "(float[1, 4, 3, 3] z) { z = If (p) <then_branch = t () => (float[1, 4, 3, 3] a)"
        "{ a = Identity(x) }, else_branch = e () => (float[1, 4, 3, 3] b) { b = Identity(x) }> }"
    )
    outer.graph.node[0].attribute[0].g.CopyFrom(body)
    onnx.save(outer, external)
    (external.parent / "weights.bin").unlink()
    with pytest.raises(InputError, match="missing"):
        files.load(external)


def test_initializers_listed_as_inputs_become_constants(tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    proto = proto_of(
        CONV.replace("ir_version: 8", "ir_version: 3").replace(": 17", ": 9"), w=WEIGHT
    )
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, WEIGHT.shape))
    onnx.save(proto, path)
    model = files.load(path)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.meta[files.LISTED_INITIALIZERS] == 1
    assert (model.ir_version, files.opset(model)) == (4, 9)
    assert [value.name for value in files.read(path).graph.inputs] == ["x", "w"]
    # From IR 4 on a file may say that its initializers are constants; below, it may not.
    files.save(model, tmp_path / "new.onnx")
    assert np.array_equal(run(tmp_path / "new.onnx"), run(path))


def test_the_default_domain_under_its_long_name_is_the_default_domain(tmp_path: Path) -> None:
    path = tmp_path / "long.onnx"
    onnx.save(proto_of(CONV.replace('"" :', '"ai.onnx" :'), w=WEIGHT), path)
    model = files.load(path)
    assert model.opset_imports == {"": 17}
    assert files.opset(model) == 17


def test_placeholder_dimensions_are_unrelated_and_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "dims.onnx"
    proto = proto_of(CONV, w=WEIGHT)
    batch, _, height, width = proto.graph.input[0].type.tensor_type.shape.dim
    batch.dim_value, height.dim_param, width.dim_param = -1, "?", "?"
    extra = onnx.helper.make_tensor_value_info("z", 1, ["?", "W"])
    proto.graph.input.append(extra)
    onnx.save(proto, path)
    shapes = [value.shape for value in files.load(path).graph.inputs]
    assert shapes[0] == ir.Shape([None, 3, None, None])
    assert shapes[1] == ir.Shape([None, "W"])


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(InputError, match="cannot read") as error:
            files.load(path)
        one_line(error, path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"this is no model\n" * 20, "is no ONNX model"),
        (b"\x00" * 100, "is no ONNX model"),
        (onnx.ModelProto().SerializeToString() + b"\x08\x08", "is no ONNX model"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        files.load(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<ir_version: 8, opset_import: ["" : 999]> g () => (float[1] y) { y = F() }', "opset 999"),
        ('<ir_version: 8, opset_import: ["" : 0]> g () => (float[1] y) { y = F() }', "opset 0"),
        ('<ir_version: 8, opset_import: ["ai.onnx.ml" : 1]> g () => () {}', "imports no operator"),
        ('<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => () {}', "no outputs"),
        (
            '<ir_version: 8, opset_import: ["" : 17]> g () => (float[1] y) { y = Relu(x) }',
            "reads 'x', which nothing produces",
        ),
        ('<ir_version: 8, opset_import: ["" : 17]> g () => (float[1] y) {}', "produces the output"),
        (
            '<ir_version: 8, opset_import: ["" : 17]> g (bool p) => (float[1] y) { y = If (p) '
            "<then_branch = t () => (float[1] a) { a = Relu(q) }, "
            "else_branch = e () => (float[1] b) { b = Relu(p) }> }",
            "If/then_branch' reads 'q'",
        ),
    ],
)
def test_a_graph_that_cannot_run_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(InputError, match=reason) as error:
        files.load(path)
    one_line(error, path)


BODIES = """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
    g (float[2] x, bool p, int64 n) => (float[2] y, float[2] z) {
        [if_1] y = If (p) <
            then_branch = t () => (float[2] a) {
                [loop_1] a = Loop (n, p, x) <body = b (int64 i, bool c, float[2] v)
                    => (bool d, float[2] w) { d = Identity(c) w = Relu(v) }>
            },
            else_branch = e () => (float[2] q) { q = l.f(x) }>
        z = Scan <num_scan_inputs = 1, body = s (float v) => (float r) { r = Neg(v) }> (x)
    }
    <domain: "l", opset_import: ["" : 17]> f (x) => (y) { y = Abs(x) }"""

WHOLE = (proto_of(CONV, w=WEIGHT).SerializeToString(), proto_of(BODIES).SerializeToString())


def loads_or_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "part.onnx"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        files.load(path)


@pytest.mark.filterwarnings("ignore")  # A damaged file may well provoke warnings of parsers.
def test_a_model_cut_anywhere_is_refused_or_loads(tmp_path: Path) -> None:
    for whole in WHOLE:
        for end in range(len(whole)):
            loads_or_is_refused(tmp_path, whole[:end])


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    whole=st.sampled_from(WHOLE),
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    keep=st.booleans(),
)
def test_a_model_with_a_damaged_byte_is_refused_or_loads(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, place: float, byte: int, keep: bool
) -> None:
    position = int(place * len(whole))
    damaged = whole[:position] + bytes([byte]) + whole[position + keep :]
    loads_or_is_refused(tmp_path_factory.getbasetemp(), damaged)


# Saving


def test_a_saved_model_is_the_same_model(inline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    files.save(files.load(inline), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inline.onnx", "out.onnx"]
    onnx.checker.check_model(str(out))
    assert np.array_equal(run(out), run(inline))


def test_external_data_stays_external_and_equal(external: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    files.save(files.load(external), out)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["external.onnx", "out.onnx", "out.onnx.data", "weights.bin"]
    onnx.checker.check_model(str(out))
    assert np.array_equal(run(out), run(external))


def test_a_model_with_external_data_can_be_saved_over_itself(external: Path) -> None:
    before = run(external)
    files.save(files.load(external), external)
    files.save(files.load(external), external)  # Now its data is where it is written to.
    (external.parent / "weights.bin").unlink()
    assert np.array_equal(run(external), before)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    inline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = files.load(inline)
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(InputError, match="No space left on device") as error:
        files.save(model, out)
    one_line(error, out)
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inline.onnx", "out.onnx"]


def test_an_interrupted_write_leaves_nothing(
    inline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = files.load(inline)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.save(model, tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["inline.onnx"]


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "out.onnx"):
        with pytest.raises(InputError, match="cannot write") as error:
            files.check_writable(path)
        one_line(error, path)
    files.check_writable(tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """A model whose one weight takes 2.5 GB, of which the disk holds next to nothing."""
    path, rows, columns = tmp_path / "huge.onnx", 2_500, 250_000
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (int64[1] i) => (float[1, {columns}] y)'
        "{ y = Gather(w, i) }"
    )
    weight = proto.graph.initializer.add(name="w", data_type=1, dims=[rows, columns])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="huge.bin")
    onnx.save(proto, path)
    with open(tmp_path / "huge.bin", "wb") as data:
        data.truncate(rows * columns * 4)
        data.seek(-4, os.SEEK_END)
        data.write(np.float32(7).tobytes())
    return path


def test_a_model_over_2_gb_loads_without_reading_its_weights(huge: Path) -> None:
    model = files.load(huge)
    assert files.weight_bytes(model) == 2_500_000_000
    weight = model.graph.initializers["w"].const_value.numpy()
    assert weight[-1, -1] == 7


@pytest.mark.long
def test_a_model_over_2_gb_is_saved(huge: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    files.save(files.load(huge), out)
    weight = files.load(out).graph.initializers["w"].const_value.numpy()
    assert weight[-1, -1] == 7
    for path in tmp_path.iterdir():
        path.unlink()  # 2.5 GB that no one needs until pytest tidies up.


# Graphs and shapes


def test_graphs_finds_every_body_and_function() -> None:
    found = dict(files.graphs(parse(BODIES)))
    assert list(found) == [
        "",
        "if_1/then_branch",
        "if_1/then_branch/loop_1/body",
        "if_1/else_branch",
        "Scan/body",
        "l::f",
    ]
    assert [node.op_type for node in found["if_1/then_branch/loop_1/body"]] == ["Identity", "Relu"]
    assert files.count_nodes(parse(BODIES)) == 8


TWO = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x, float[N, 4] v) => (float[N, 4, P, Q] y, float[N, 4] u)
    { y = Conv(x, w) u = Relu(v) }"""


def test_overriding_inputs_binds_names_and_keeps_others_dynamic() -> None:
    model = parse(TWO, w=WEIGHT)
    files.override_inputs(model, {"x": (2, 3, "A", None)})
    x, v = (value.shape for value in model.graph.inputs)
    y, u = (value.shape for value in model.graph.outputs)
    assert x == ir.Shape([2, 3, "A", None])
    assert v == u == ir.Shape([2, 4])
    assert y[:2] == (2, 4)
    assert isinstance(y[2], ir.SymbolicDim)
    files.override_inputs(model, {"x": (2, 3, 7, 9)})
    assert model.graph.outputs[0].shape == ir.Shape([2, 4, 5, 7])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_overriding_a_nominal_size_forgets_the_shapes_it_implied() -> None:
    fixed = CONV.replace("N, 3, H, W", "10, 3, 32, 32").replace("N, 4, P, Q", "10, 4, 30, 30")
    model = parse(fixed, w=WEIGHT)
    files.override_inputs(model, {"x": (1, 3, 8, 9)})
    assert model.graph.outputs[0].shape == ir.Shape([1, 4, 6, 7])


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"q": (1, 3, 8, 8)}, "'q': the model has no such input; it has 'x', 'v'"),
        ({"x": (1, 3, 8)}, r"'x': 3 dimensions given, the model's input has 4 \(Nx3xHxW\)"),
        ({"x": (0, 3, 8, 8)}, "'x': sizes must be at least 1, got 0x3x8x8"),
        ({"x": (1, 3, -8, 8)}, "'x': sizes must be at least 1"),
    ],
)
def test_a_wrong_override_changes_nothing(shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    model = parse(TWO, w=WEIGHT)
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(InputError, match=reason):
        files.override_inputs(model, {"v": (5, 4), **shapes})
    assert ir.to_proto(model).SerializeToString() == before


def test_names_with_line_breaks_give_messages_of_one_line() -> None:
    model = parse(TWO, w=WEIGHT)
    model.graph.inputs[0].name = "a\nb\x1b[31m"
    with pytest.raises(InputError, match=r"it has 'a b \[31m', 'v'"):
        files.override_inputs(model, {"q": (1,)})


def test_inferring_shapes_of_unknown_operators_is_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17, "q" : 1]> g (float[2] x) => (float[2] y) '
        "{ a = Relu(x) b = q.Own(a) y = Relu(b) }"
    )
    assert model.graph.node(0).outputs[0].shape == ir.Shape([2])
    assert model.graph.node(1).outputs[0].shape is None
    assert capfd.readouterr() == ("", "")


# What is refused before any work


def test_nan_weights_are_named() -> None:
    weight = WEIGHT.copy()
    weight[0, 0, 0, :2] = np.nan
    with pytest.raises(InputError, match=r"'m\.onnx': initializer 'w' has 2 NaN of 108 values"):
        files.check_weights(parse(CONV, w=weight), "m.onnx")
    infinite = np.where(np.isnan(weight), np.inf, weight).astype(np.float32)
    files.check_weights(parse(CONV, w=infinite), "m.onnx")


def test_custom_operators_are_named_and_local_functions_are_not() -> None:
    files.check_domains(parse(BODIES), "m.onnx")
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17, "q" : 1]> g (float[2] x) => (float[2] y) '
        "{ [mine] y = q.Own(x) }"
    )
    with pytest.raises(InputError, match=r"operator q\.Own \(node 'mine'\) needs a custom"):
        files.check_domains(model, "m.onnx")


def test_a_pipe_is_refused_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (files.check_writable, lambda path: files.write_text(path, "{}")):
        with pytest.raises(InputError, match="no regular file"):
            write(pipe)
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_one_file_has_many_paths(tmp_path: Path) -> None:
    real, link, hard = (tmp_path / name for name in ("real", "link", "hard"))
    assert files.is_same_file(real, tmp_path / "." / "real")
    real.touch()
    link.symlink_to(real)
    hard.hardlink_to(real)
    assert files.is_same_file(link, real)
    assert files.is_same_file(hard, real)
    assert not files.is_same_file(real, tmp_path / "other")


def test_a_computed_reshape_has_the_rank_of_its_target() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, C] x, int64[3] t) => (float[] z) { y = Reshape(x, t) z = Relu(y) }"""
    )
    files.infer_shapes(model)
    assert len(model.graph.node(0).outputs[0].shape) == 3


def test_a_size_that_inference_named_is_looked_at_again() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, C] x) => (float[] z) { y = Relu(x) v = Relu(y) z = Relu(v) }"""
    )
    model.graph.node(1).outputs[0].shape = ir.Shape(["unk__0", "C"])
    files.infer_shapes(model)
    assert model.graph.node(1).outputs[0].shape == ir.Shape(["N", "C"])


def test_a_reshape_of_old_opsets_has_its_target_in_an_attribute() -> None:
    model = parse(
        """<ir_version: 3, opset_import: ["" : 4]> g (float[N, 4] x) => (float[] z)
        { y = Reshape <shape = [2, -1]> (x) z = Relu(y) }"""
    )
    files.infer_shapes(model)
    assert model.graph.node(0).outputs[0].shape is None  # and that is no event
