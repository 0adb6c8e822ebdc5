"""The proof that an exported model computes what the torch module does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.func import functional_call
from torch.utils import _pytree as pytree

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.exporters.torch_arguments import Arguments, Tensors, spell_place
from advconv_onnx.exporters.torch_cases import Case
from advconv_onnx.exporters.torch_difference import first_difference
from advconv_onnx.exporters.torch_output import one_line, silence
from advconv_onnx.records import TensorCheck, Validation
from advconv_onnx.runtime.difference import Difference
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

_LARGE = 1 << 29
"""Bytes of weights above which torch and ONNX Runtime run one after the other, without copies."""

Outputs = list[tuple[str, torch.Tensor]]
"""Tensors with their places in what a module returns."""

Run = Callable[[Tensors], Outputs]


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """A torch module, in evaluation mode, with the arguments it takes."""

    module: torch.nn.Module
    arguments: Arguments

    def run(self, tensors: Tensors) -> Outputs:
        """Run the module as it is."""
        args, kwargs = self.arguments.fill(tensors)
        with silence(), torch.no_grad():
            return _with_places(self.module(*args, **kwargs))

    def in_float64(self) -> Run:
        """What runs the module on weights and inputs in float64, and leaves it as it is."""
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        weights = {name: _doubled(tensor.detach()) for name, tensor in named}

        def run(tensors: Tensors) -> Outputs:
            exact = {name: _doubled(tensor) for name, tensor in tensors.items()}
            args, kwargs = self.arguments.fill(exact)
            with silence(), torch.no_grad():
                return _with_places(functional_call(self.module, weights, args, kwargs))

        return run


def _with_places(result: Any) -> Outputs:
    leaves, _ = pytree.tree_flatten_with_path(result)
    return [(spell_place(path), leaf) for path, leaf in leaves if isinstance(leaf, torch.Tensor)]


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """What torch returns for one draw: as it is, and in float64 if it can."""

    text: str
    draw: Tensors
    plain: list[np.ndarray]
    exact: list[np.ndarray] | None


def prove(
    model: ir.Model,
    layers: Mapping[str, str],
    subject: Subject,
    cases: Sequence[Case],
    max_error: float,
) -> Validation:
    """Compare a model in ONNX Runtime with a module in torch, in every output of every draw.

    Args:
        model: the exported model.
        layers: submodules by the values of the model, to name the first that differs.
        subject: what it should be equal to.
        cases: what both are run on.
        max_error: largest difference from float64 over the range of an output's values; for
            integers the largest share that may differ.

    Raises:
        CheckError: the model does not load, computes something else, or nothing proves that.
    """
    notes: list[str] = []
    sparing = files.weight_bytes(model) > _LARGE
    answers: Iterable[_Answer] = _answers(subject, cases, notes)
    if sparing:  # What torch needs in float64 is free before ONNX Runtime begins.
        answers = list(answers)
    found = _compared(model, answers, sparing=sparing)
    checks = tuple(_check(name, difference) for name, difference in found.items())
    worst = max(checks, key=lambda check: check.max_relative)
    if not worst.max_relative <= max_error:
        problem = found[worst.tensor].problem or (
            f"differs from torch by {worst.max_relative:.1e} of its range (allowed {max_error:.1e})"
        )
        where = _where(model, layers, subject, cases, max_error)
        raise CheckError(
            f"nothing was written: exported output '{worst.tensor}' {problem}{where}; fix "
            "dimensions with --input, or make the module independent of Python values and chance"
        )
    constant = [check.tensor for check in checks if not check.range]
    if len(constant) == len(checks):
        raise CheckError(
            "nothing was written: every output is constant on the inputs tried; export a module "
            "that depends on them"
        )
    notes += [f"output '{name}' is constant: comparing it proves nothing" for name in constant]
    return Validation(
        passed=True,
        max_error=max_error,
        checks=checks,
        inputs=sum(len(case.draws) for case in cases),
        shapes=tuple(case.text for case in cases),
        notes=tuple(notes),
    )


def _answers(subject: Subject, cases: Sequence[Case], notes: list[str]) -> Iterator[_Answer]:
    exactly = _judge(subject, cases[0], notes)
    for case in cases:
        for draw in case.draws:
            exact = _arrays(exactly(draw)) if exactly else None
            yield _Answer(case.text, draw, _arrays(subject.run(draw)), exact)


def _judge(subject: Subject, case: Case, notes: list[str]) -> Run | None:
    """The module in float64, None where it insists on its own precision."""
    try:
        exactly = subject.in_float64()
        exactly(case.draws[0])
    except Exception as error:  # whatever the module raises
        notes.append(f"compared in the module's own precision: {one_line(error)}")
        return None
    return exactly


def _arrays(outputs: Outputs) -> list[np.ndarray]:
    return [tensor.numpy(force=True) for _, tensor in outputs]


def _compared(
    model: ir.Model, answers: Iterable[_Answer], *, sparing: bool
) -> dict[str, Difference]:
    try:
        session = open_session(model, graph_optimizations=not sparing, prepacking=not sparing)
    except CheckError as error:
        raise CheckError(
            f"nothing was written: {error}; use float32 and operators that ONNX Runtime has"
        ) from error
    found = {output.name or "": Difference(bounds=None) for output in model.graph.outputs}
    for answer in answers:
        if len(answer.plain) != len(found):
            raise CheckError(
                f"the exported model has {len(found)} outputs, the module returns "
                f"{len(answer.plain)} tensors; return every tensor once"
            )
        try:
            got = run_session(session, _fed(answer.draw))
        except CheckError as error:
            raise CheckError(
                f"exported, but not for all sizes the module runs at: {answer.text}: {error}; fix "
                "these dimensions with --input"
            ) from error
        for index, (name, difference) in enumerate(found.items()):
            exact = answer.exact[index] if answer.exact else None
            difference.add(answer.plain[index], got[name], exact, typed=True)
    return found


def _fed(draw: Tensors) -> dict[str, np.ndarray]:
    return {name: tensor.numpy(force=True) for name, tensor in draw.items()}


def _check(name: str, difference: Difference) -> TensorCheck:
    """Relate the largest difference to the range of all values; 0 is the range of a constant."""
    if difference.problem:
        error = math.inf
    elif difference.is_float:
        # float64 alone is the judge, also of a module that rounds badly itself.
        error = max(difference.from_exact, difference.from_trusted_only) / difference.scale
    else:
        error = difference.changed / max(1, difference.elements)
    return TensorCheck(name, error, 0.0 if difference.is_degenerate else difference.range)


def _where(
    model: ir.Model,
    layers: Mapping[str, str],
    subject: Subject,
    cases: Sequence[Case],
    max_error: float,
) -> str:
    """The first layer that differs, and the inputs at which it does."""
    run = _judge(subject, cases[0], []) or subject.run
    for case in cases:
        for draw in case.draws:
            layer = first_difference(model, layers, subject.module, run, draw, max_error)
            if layer:
                return f" at {case.text}, first in {layer}"
    return f" at {'; '.join(case.text for case in cases)}"
