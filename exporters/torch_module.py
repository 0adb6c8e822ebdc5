"""Export a ``torch.nn.Module`` to ONNX, and prove on seeded inputs that both compute the same.

The only file of the package that imports torch.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import inspect
import itertools
import logging
import math
import operator
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes

from advconv_onnx import model as model_file
from advconv_onnx.errors import CheckError, InputError, MissingDependencyError
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.records import Shape, TensorCheck, Validation
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.simplify import fold_constants, settle, tidy
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

try:
    import torch
    from torch.utils import _pytree as pytree
except ImportError as error:
    raise MissingDependencyError(
        f"exporting from torch needs torch ({error}); pip install 'advconv-onnx[torch]'"
    ) from error

OLDEST_OPSET, NEWEST_OPSET = 18, 23
"""What torch's exporter has implementations for."""

_LARGEST_FOLDED = 1 << 20
"""Elements up to which an expression of constants is computed when a module is exported."""

_SIZES = (
    *((2, 64, 96), (1, 65, 97), (3, 48, 32), (2, 128, 160), (2, 224, 224), (1, 224, 256)),
    *((2, 96, 96), (2, 64, 64), (2, 32, 32), (2, 28, 28), (2, 512, 512)),
)
"""Sizes for symbolic dimensions: the batch, then the others in turn.

Odd sizes and a batch of 1 provoke mistakes; the second row serves modules that need equal sides.
The first one starts with 2, as torch takes a 1 for a fixed dimension.
"""

_MOST_SHAPES = 4
_MOST_ELEMENTS = 1 << 21
"""Of all inputs together, for every shape after the first: volumes would fill the memory."""

_Tensors = Mapping[str, torch.Tensor]
_Dims = tuple[int | str, ...]
"""A shape whose dynamic dimensions all have names."""

_CONSTANT = 1e-6
"""Range over magnitude below which an output counts as constant."""


def load_source(source: str, *, seed: int = 0) -> torch.nn.Module:
    """Find the module to export.

    Args:
        source: ``package.module:callable`` returning a module (or naming one), found from the
            current directory too; or the file of a ``torch.export`` program, ``*.pt2``.
        seed: of torch's generator while the callable builds its module.

    Raises:
        InputError: nothing there, the callable fails, or what comes out is no module.
    """
    if source.endswith(".pt2"):
        return _load_program(Path(source))
    name, separator, attribute = source.partition(":")
    if not (name and separator and attribute):
        raise InputError(
            f"source '{source}' is neither 'package.module:callable' nor the path of a .pt2 file"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with _blaming(f"source '{source}': cannot import '{name}'"):
        found: Any = importlib.import_module(name)
    with _blaming(f"source '{source}': no '{attribute}' in module '{name}'"):
        found = operator.attrgetter(attribute)(found)
    if not isinstance(found, torch.nn.Module) and callable(found):
        with _blaming(f"source '{source}': calling it failed"), torch.random.fork_rng():
            torch.manual_seed(seed)
            found = found()
    if not isinstance(found, torch.nn.Module):
        raise InputError(
            f"source '{source}' gives a {type(found).__name__}; a torch.nn.Module is required"
        )
    return found


def _load_program(path: Path) -> torch.nn.Module:
    with _blaming(f"cannot load '{path}' as a torch.export program"), _silence():
        return torch.export.load(path).module()


def export(
    module: torch.nn.Module,
    inputs: Mapping[str, Shape],
    out: str | os.PathLike[str],
    *,
    opset: int = 20,
    seed: int = 0,
    max_error: float = 1e-4,
) -> Validation:
    """Export a module with torch's dynamo exporter, compare both, and save the file when equal.

    The module is exported in evaluation mode and left in the mode it was in. The ONNX model, run by
    ONNX Runtime, is compared with a float64 copy of the module in torch on several sizes of every
    symbolic dimension.

    Args:
        module: what to export.
        inputs: a shape for every input, by the parameter names of ``forward``; a dimension that is
            a name (or None) stays dynamic, and the same name means the same size.
        out: the ONNX file to write.
        opset: of the ONNX file.
        seed: of the inputs both are compared on.
        max_error: largest difference allowed, over the range of the output's values. For outputs
            that are no floating-point numbers: the largest share of elements that may differ.

    Raises:
        InputError: wrong input names, a module that does not run at these shapes or that torch
            cannot export, an opset torch has not, or an ``out`` that cannot be written.
        CheckError: the exported model does not load or computes something else; nothing is written.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InputError(f"opset {opset}: torch exports opsets {OLDEST_OPSET} to {NEWEST_OPSET}")
    model_file.check_writable(out)
    named = {name: _name_dims(name, shape) for name, shape in inputs.items()}
    with _evaluating(module) as notes, torch.no_grad():
        cases, refused = _runnable_cases(module, named, seed)
        model = _canonical(_trace(module, named, cases[0], opset), seed)
        if refused:
            notes.append(
                f"not checked, as the module itself does not run at them: {'; '.join(refused[:3])}"
                + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")
            )
        notes += _merged_dims(model, named)
        validation = _check(model, module, cases, max_error, notes)
    if not validation.passed:
        raise CheckError(f"nothing was written: {_failure(validation)}")
    model_file.save(model, out)
    return validation


def _failure(validation: Validation) -> str:
    worst = max(validation.checks, key=lambda check: check.max_relative)
    if worst.max_relative <= validation.max_error:
        return "every output is constant on the inputs tried; export a module that depends on them"
    return (
        f"exported output '{worst.tensor}' differs from torch by {worst.max_relative:.1e} of its "
        f"range at {'; '.join(validation.shapes)} (allowed {validation.max_error:.1e}); fix "
        "dimensions with --input, or make the module independent of Python values and of chance"
    )


def _name_dims(name: str, shape: Shape) -> _Dims:
    return tuple(f"{name}_{axis}" if dim is None else dim for axis, dim in enumerate(shape))


@contextlib.contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn whatever other people's code raises into one line about the call that caused it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise InputError(f"{what}: {type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:400]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep torch's warnings, log lines and printed graphs off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[list[str]]:
    """Switch to evaluation mode for a while; yields the notes a reader needs about that."""
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
    except NotImplementedError:  # an exported program has its mode baked in
        yield []
        return
    try:
        yield ["the module was in training mode, exported in evaluation mode"] if training else []
    finally:
        for part in training:
            part.training = True


@dataclasses.dataclass(frozen=True)
class _Case:
    """Inputs for one binding of the symbolic dimensions: the shapes as text, and two draws."""

    text: str
    draws: tuple[_Tensors, ...]


def _runnable_cases(
    module: torch.nn.Module, inputs: Mapping[str, _Dims], seed: int
) -> tuple[list[_Case], list[str]]:
    """Find sizes at which the module runs, and the shapes at which it raises."""
    _check_names(module, inputs)
    cases: list[_Case] = []
    refused: dict[str, Exception] = {}
    largest = _MOST_ELEMENTS
    bindings = [_bind(inputs, sizes) for sizes in _SIZES]
    for text, shapes in {_spell(shapes): shapes for shapes in bindings}.items():
        elements = sum(math.prod(shape) for shape in shapes.values())
        if cases and elements > largest:
            continue
        case = _Case(text, _draw(module, shapes, seed))
        try:
            _run_torch(module, case.draws[0])
        except Exception as error:  # whatever the module raises at sizes it is not made for
            refused[text] = error
            continue
        largest = largest if cases else max(largest, elements)
        cases.append(case)
        if len(cases) == _MOST_SHAPES:
            break
    if not cases:
        tried, reason = next(iter(refused.items()))
        raise InputError(
            f"the module does not run at {tried}: {type(reason).__name__}: {_one_line(reason)}; "
            "give sizes that it accepts with --input"
        )
    return cases, list(refused)


def _check_names(module: torch.nn.Module, inputs: Mapping[str, Shape]) -> None:
    parameters = inspect.signature(module.forward).parameters
    try:
        inspect.signature(module.forward).bind(**inputs)
    except TypeError as error:
        names = ", ".join(f"'{name}'" for name in parameters)
        raise InputError(f"--input: {error}; the module's forward takes {names}") from error


def _bind(inputs: Mapping[str, _Dims], sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Give every symbolic dimension a size: the first to dimensions named on an axis 0."""
    batch, *others = sizes
    bound = {dims[0]: batch for dims in inputs.values() if dims and isinstance(dims[0], str)}
    other = itertools.cycle(others)
    for dim in itertools.chain.from_iterable(inputs.values()):
        if isinstance(dim, str) and dim not in bound:
            bound[dim] = next(other)
    return {
        name: tuple(bound[dim] if isinstance(dim, str) else dim for dim in dims)
        for name, dims in inputs.items()
    }


def _spell(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return " ".join(f"{name}={model_file.format_shape(shape)}" for name, shape in shapes.items())


def _draw(
    module: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> tuple[_Tensors, ...]:
    """Draw normal, and uniform inputs from -1 to 1, in the module's own precision and place."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(seed)
    normal = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    uniform = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return (
        {name: x.to(like.device, like.dtype) for name, x in normal.items()},
        {name: (2 * x - 1).to(like.device, like.dtype) for name, x in uniform.items()},
    )


def _run_torch(module: torch.nn.Module, tensors: _Tensors) -> list[torch.Tensor]:
    return [leaf for _, leaf in _named_outputs(module, tensors)]


def _named_outputs(module: torch.nn.Module, tensors: _Tensors) -> list[tuple[str, torch.Tensor]]:
    """Run a module; its output tensors in order, with their place in what it returns as name."""
    call = _bind_call(module, tensors)
    with _silence():
        result = module(*call.args, **call.kwargs)
    leaves, _ = pytree.tree_flatten_with_path(result)
    return [
        (re.sub(r"\W", "", "_".join(map(str, path))), leaf)
        for path, leaf in leaves
        if isinstance(leaf, torch.Tensor)
    ]


def _bind_call(module: torch.nn.Module, tensors: _Tensors) -> inspect.BoundArguments:
    # By position where possible: exported programs accept nothing else.
    return inspect.signature(module.forward).bind(**tensors)


def _trace(
    module: torch.nn.Module, inputs: Mapping[str, Shape], case: _Case, opset: int
) -> ir.Model:
    call = _bind_call(module, case.draws[0])
    outputs = [_output_name(name, inputs) for name, _ in _named_outputs(module, case.draws[0])]
    dynamic = {
        name: {axis: dim for axis, dim in enumerate(shape) if isinstance(dim, str)}
        for name, shape in inputs.items()
    }
    try:
        with _silence():
            program = torch.onnx.export(
                module,
                call.args,
                kwargs=call.kwargs,
                dynamic_shapes=dynamic if any(dynamic.values()) else None,
                input_names=[name for name in call.signature.parameters if name in inputs],
                output_names=outputs,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch's exporter promises no particular exception
        reason = re.split(
            r" (?:Caused by|For more information|See the)", _one_line(error.__cause__ or error)
        )[0]
        raise InputError(
            f"torch cannot export the module at {case.text}: {reason}; fix the dimensions or "
            "sizes it names, or make the module traceable by torch.export"
        ) from error
    assert program is not None, "torch.onnx.export returns a program with dynamo=True"
    return program.model


def _output_name(place: str, inputs: Mapping[str, Shape]) -> str:
    if not place or place[0].isdigit() or place in inputs:
        return f"output_{place}".rstrip("_")
    return place


def _canonical(model: ir.Model, seed: int) -> ir.Model:
    """Fold what is constant or affine, and drop what tells about the exporting machine."""
    # Inner values make way where an output was named like one of them.
    ir_passes.NameFixPass()(model)
    ir_passes.ClearMetadataAndDocStringPass()(model)
    for value in ir.convenience.create_value_mapping(model.graph).values():
        value.metadata_props.clear()
    model, _ = tidy(model)
    fold_constants(model, _LARGEST_FOLDED)
    return fuse(settle(model), all_rules(), seed=seed).model


def _merged_dims(model: ir.Model, inputs: Mapping[str, Shape]) -> list[str]:
    """Name the dimensions that torch found to be less free than they were asked to be."""
    notes = []
    for value in model.graph.inputs:
        asked = inputs[value.name or ""]
        if value.shape is not None and ir.Shape(asked) != value.shape:
            notes.append(
                f"'{value.name}' was asked to be {model_file.format_shape(asked)}, the module "
                f"allows {model_file.format_shape(value.shape)}"
            )
    return notes


def _check(
    model: ir.Model,
    module: torch.nn.Module,
    cases: Sequence[_Case],
    max_error: float,
    notes: list[str],
) -> Validation:
    """Compare the model in ONNX Runtime with the module in torch, on every draw of every case."""
    run = functools.partial(run_session, open_session(model))
    comparisons = [_Comparison(output.name or "") for output in model.graph.outputs]
    judge = _float64_judge(module, cases[0], notes)
    for case in cases:
        for draw in case.draws:
            outputs = _run_onnx(run, case, draw)
            plain = _run_torch(module, draw)
            if len(outputs) != len(plain):
                raise CheckError(
                    f"the exported model has {len(outputs)} outputs, the module returns "
                    f"{len(plain)} tensors; return every tensor once"
                )
            for each, *values in zip(comparisons, outputs, plain, judge(draw), strict=True):
                each.add(*(torch.as_tensor(value).numpy(force=True) for value in values))
    checks = tuple(each.result() for each in comparisons)
    constant = [check.tensor for check in checks if check.range == 0]
    notes += [f"output '{name}' is constant: comparing it proves nothing" for name in constant]
    return Validation(
        passed=all(check.max_relative <= max_error for check in checks)
        and len(constant) < len(checks),
        max_error=max_error,
        checks=checks,
        inputs=sum(len(case.draws) for case in cases),
        shapes=tuple(case.text for case in cases),
        notes=tuple(notes),
    )


def _run_onnx(
    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    case: _Case,
    draw: _Tensors,
) -> list[np.ndarray]:
    arrays = {name: tensor.numpy(force=True) for name, tensor in draw.items()}
    try:
        return list(run(arrays).values())
    except CheckError as error:
        raise CheckError(
            f"exported, but not for all sizes the module runs at: {case.text}: {error}; fix these "
            "dimensions with --input"
        ) from error


def _float64_judge(
    module: torch.nn.Module, case: _Case, notes: list[str]
) -> Callable[[_Tensors], list[torch.Tensor]]:
    """Return what computes the reference: a float64 copy of the module, else the module."""

    def judge(tensors: _Tensors) -> list[torch.Tensor]:
        return _run_torch(exact, {name: tensor.double() for name, tensor in tensors.items()})

    try:
        with _silence():
            exact = copy.deepcopy(module).double()
        judge(case.draws[0])
    except Exception as error:  # modules that insist on their own precision
        notes.append(f"compared in the module's own precision: {_one_line(error)}")
        return lambda tensors: _run_torch(module, tensors)
    return judge


@dataclasses.dataclass
class _Comparison:
    """One output compared draw by draw, without keeping the arrays."""

    name: str
    error: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    relative: bool = True

    def add(self, actual: np.ndarray, expected: np.ndarray, exact: np.ndarray) -> None:
        """Compare with the module's output as it is (type, shape, NaN) and in float64 (values)."""
        if actual.dtype != expected.dtype or actual.shape != expected.shape:
            self.error = np.inf
            return
        if not np.issubdtype(expected.dtype, np.floating):
            self.relative = False
            exact, error = expected, actual != expected
        else:
            finite = np.isfinite(expected)
            if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
                self.error = np.inf
            exact, error = exact[finite], np.abs(actual[finite] - exact[finite])
            error[np.isnan(error)] = np.inf
        if exact.size:
            self.low = min(self.low, float(exact.min()))
            self.high = max(self.high, float(exact.max()))
            self.error = max(self.error, float(error.max() if self.relative else error.mean()))

    def result(self) -> TensorCheck:
        """Relate the largest error to the range of all values; 0 is the range of a constant."""
        if self.low > self.high:  # not one finite value
            return TensorCheck(self.name, self.error, 0.0)
        magnitude = max(abs(self.low), abs(self.high))
        spread = self.high - self.low
        if not spread > _CONSTANT * magnitude:
            spread = 0.0
        scale = (spread or magnitude or 1.0) if self.relative else 1.0
        return TensorCheck(self.name, self.error / scale, spread)
