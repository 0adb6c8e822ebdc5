"""The backend test suite of the onnx package: what is optimized still gives the outputs it expects.

Each case goes through ``optimize`` at level fuse, and once more straight through all rules with its
further inputs frozen to constants, which is how rules find weights, axes and scales in models.
A case that ONNX Runtime does not run must not crash us either: it ends in a result or in one of our
errors. It is told by name, as a skipped subtest, after its checks.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

import advconv_onnx
from advconv_onnx import model as files
from advconv_onnx.errors import AdvconvError, InputError
from advconv_onnx.optimizer.transaction import attempt, fuse
from advconv_onnx.rewriter import simplify
from advconv_onnx.rewriter.fusions import all_rules

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
SAMPLE = 150
PARTS = 40
LIGHT = Path(onnx.__file__).parent.parent

Outputs = Sequence[Any]
Execute = Callable[[onnx.ModelProto, dict[str, Any]], Outputs]

LARGEST_FOLDED = 1 << 12


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of the suite, with inputs and the outputs it must give for them."""

    name: str
    model: onnx.ModelProto
    data_sets: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float


def named_inputs(case: Case, inputs: Sequence[Any]) -> dict[str, Any]:
    """Inputs by name; a case may give fewer than its model has, the last being optional."""
    return dict(zip(input_names(case.model), inputs, strict=False))


def input_names(model: onnx.ModelProto) -> list[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


@functools.cache
def suite() -> list[Any]:
    """All cases as the onnx package describes them, always in the same order."""
    with warnings.catch_warnings():
        # Cases compute their outputs when they are listed, overflow on purpose included.
        warnings.simplefilter("ignore")
        found = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    return sorted(found, key=lambda case: (case.kind, case.name))


def read(case: Any) -> Case:
    """Load a case: those of single nodes are in memory, others in a folder or a light model."""
    if case.model is not None:
        sets = tuple((_arrays(inputs), _arrays(outputs)) for inputs, outputs in case.data_sets)
        return Case(case.name, case.model, sets, case.rtol, case.atol)
    if case.url is not None:
        path = LIGHT / case.url
        model = onnx.load(path)
        sets = (_light_data(model, path.with_suffix("")),)
    else:
        folder = Path(case.model_dir)
        model = onnx.load(folder / "model.onnx")
        sets = tuple(
            (_files(data, "input", model.graph.input), _files(data, "output", model.graph.output))
            for data in sorted(folder.glob("test_data_set_*"))
        )
    return Case(case.name, model, sets, case.rtol, case.atol)


def _light_data(model: onnx.ModelProto, stem: Path) -> tuple[list[Any], list[Any]]:
    values = {value.name: value for value in model.graph.input}
    inputs = [Runner.generate_dummy_data(values[name]) for name in input_names(model)]
    outputs = [
        _load(f"{stem}_output_{index}.pb", value) for index, value in enumerate(model.graph.output)
    ]
    return inputs, outputs


def _files(folder: Path, what: str, values: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    count = len(list(folder.glob(f"{what}_*.pb")))
    return [_load(folder / f"{what}_{i}.pb", values[i]) for i in range(count)]


def _load(path: str | Path, value: onnx.ValueInfoProto) -> Any:
    content = Path(path).read_bytes()
    if value.type.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if value.type.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _arrays(values: Sequence[Any]) -> list[Any]:
    """Arrays as they are to be fed: some cases hold numpy scalars, or tensors of ONNX."""
    arrays = []
    for value in values:
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        arrays.append(np.asarray(value) if isinstance(value, np.generic) else value)
    return arrays


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> Outputs:
    """The outputs in ONNX Runtime of a graph as it is written."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    outputs: Outputs = session.run(None, feeds)
    return outputs


def evaluate(model: onnx.ModelProto, feeds: dict[str, Any]) -> Outputs:
    """The outputs in onnx's reference evaluator, which knows operators before ONNX Runtime does."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        outputs: Outputs = ReferenceEvaluator(model).run(None, feeds)
    return outputs


def check_outputs(case: Case, model: onnx.ModelProto, execute: Execute) -> None:
    """Compare a model's outputs with the expected ones, as the suite itself does."""
    known = {value.name for value in model.graph.input}
    # What was frozen to constants was frozen with the first inputs.
    sets = case.data_sets if known >= set(input_names(case.model)) else case.data_sets[:1]
    for inputs, wanted in sets:
        feeds = {name: a for name, a in named_inputs(case, inputs).items() if name in known}
        found = execute(model, feeds)
        Runner.assert_similar_outputs(wanted, found, case.rtol, case.atol, case.name)


def find_judge(case: Case) -> tuple[Execute | None, str]:
    """Who gives the expected outputs for the original; and if not ONNX Runtime, why not."""
    reasons = []
    for execute, name in ((run, "ONNX Runtime"), (evaluate, "reference evaluator")):
        try:
            check_outputs(case, case.model, execute)
        except Exception as error:  # Missing kernels, types without numpy arrays, random draws.
            reasons.append(f"{name}: {' '.join(str(error).split())[:120]}")
        else:
            return execute, "; ".join(reasons)
    return None, "; ".join(reasons)


def optimize(case: Case, folder: Path) -> tuple[onnx.ModelProto | None, str]:
    """The model after ``advconv optimize --level fuse``, or why that is refused."""
    source, target = folder / "model.onnx", folder / "optimized.onnx"
    onnx.save(case.model, source)
    feeds = named_inputs(case, case.data_sets[0][0])
    arrays = all(isinstance(array, np.ndarray) for array in feeds.values())
    data = feeds if arrays else None
    try:
        advconv_onnx.optimize(source, target, level="fuse", threads=1, data=data)
    except AdvconvError as error:
        return None, f"refused: {error}"
    return onnx.load(target), ""


def fold_constants(model: ir.Model) -> ir.Model:
    return simplify.fold_constants(model, LARGEST_FOLDED)


def check_model(model: ir.Model) -> None:
    onnx.checker.check_model(ir.to_proto(model))


def fuse_all(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto | None:
    """The model after all rules, whether or not anything can be proved about it as a whole.

    None where it is no model of ours, as those are that import no default operator set.
    """
    path = folder / "fused.onnx"
    onnx.save(model, path)
    try:
        loaded = files.load(path)
    except InputError:
        return None
    settled = simplify.settle(loaded)
    folded, _ = attempt("fold_constants", settled, fold_constants, check_model)
    result = fuse(folded, all_rules(), seed=0)
    proto: onnx.ModelProto = ir.to_proto(result.model)
    return proto


def freeze(case: Case) -> onnx.ModelProto | None:
    """The model with all inputs but the first as constants; None if those are no tensors."""
    inputs = list(named_inputs(case, case.data_sets[0][0]).items())[1:]
    if not inputs or not all(isinstance(array, np.ndarray) for _, array in inputs):
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(case.model)
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in inputs]
    kept = [value for value in copy.graph.input if value.name not in dict(inputs)]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    copy.graph.initializer.extend(constants)
    copy.ir_version = max(copy.ir_version, 4)  # From then on initializers need not be inputs.
    return copy


def check_case(case: Case, folder: Path) -> str:
    """Check a case; say why it was checked with less than usual, or nothing."""
    judge, reason = find_judge(case)
    result, refusal = optimize(case, folder)
    frozen = freeze(case)
    for model in (result or fuse_all(case.model, folder), frozen and fuse_all(frozen, folder)):
        if model is None:
            continue
        onnx.checker.check_model(model)
        if judge:
            check_outputs(case, model, judge)
    return "; ".join(filter(None, (reason, refusal)))


def check_cases(cases: Iterable[Any], folder: Path, subtests: pytest.Subtests) -> None:
    for described in cases:
        with subtests.test(described.name):
            if shortcoming := check_case(read(described), folder):
                pytest.skip(f"checked, but {shortcoming}")


def test_a_sample_keeps_its_outputs(tmp_path: Path, subtests: pytest.Subtests) -> None:
    small = [case for case in suite() if case.kind != "real"]
    check_cases(random.Random(0).sample(small, SAMPLE), tmp_path, subtests)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_all_cases_keep_their_outputs(part: int, tmp_path: Path, subtests: pytest.Subtests) -> None:
    check_cases(suite()[part::PARTS], tmp_path, subtests)


def test_the_suite_is_whole() -> None:
    kinds = collections.Counter(case.kind for case in suite())
    assert kinds["node"] >= 1884
    assert all(kinds[kind] for kind in KINDS), kinds
