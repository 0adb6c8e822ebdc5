"""Export a ``torch.nn.Module`` to ONNX, and prove on seeded inputs that both compute the same.

The steps are files of their own: ``torch_arguments`` and ``torch_cases`` say what the module is
called with, ``torch_conversion`` translates it, ``torch_proof`` compares both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from advconv_onnx.errors import InputError, MissingDependencyError

try:
    import torch
    from torch.nn.utils import parametrize
except ImportError as error:
    raise MissingDependencyError(
        f"exporting from torch needs torch ({error}); pip install 'advconv-onnx[torch]'"
    ) from error

from advconv_onnx import model as files
from advconv_onnx.exporters.torch_arguments import (
    TYPES,
    Arguments,
    arguments_of,
    arguments_of_program,
    unique_names,
)
from advconv_onnx.exporters.torch_cases import find_cases
from advconv_onnx.exporters.torch_conversion import (
    NEWEST_OPSET,
    OLDEST_OPSET,
    canonical,
    convert,
    merged_dimensions,
)
from advconv_onnx.exporters.torch_difference import layers_of
from advconv_onnx.exporters.torch_proof import Outputs, Subject, prove
from advconv_onnx.exporters.torch_source import Source
from advconv_onnx.records import Shape, Validation
from advconv_onnx.runtime.validate import usual_error

_TRAINING = ("train", "training")
"""What operators of torch call a parameter that makes them behave as in training."""


def export(
    module: Source,
    example_inputs: Any,
    out: str | os.PathLike[str],
    *,
    dynamic: Mapping[str, Shape] | None = None,
    opset: int = 20,
    seed: int = 0,
    max_error: float | None = None,
) -> Validation:
    """Export a module with torch's dynamo exporter, compare both, and save the file when equal.

    The module is exported in evaluation mode and left in the mode it was in. The ONNX model, run by
    ONNX Runtime, is compared with the module in float64 in torch, on the example and on drawn
    inputs of several sizes of every dynamic dimension. Inputs and outputs are named by their place
    in what ``forward`` takes and returns: "x", "pair_0", "options_mask".

    Args:
        module: what to export; or a program of ``torch.export``, whose dynamic dimensions are those
            of the result.
        example_inputs: a tensor; a tuple or list of arguments; or a mapping of keywords. Arguments
            may be nested, and those that are no tensors become constants. In a mapping, a tuple of
            sizes stands for a tensor of that shape and the type of the weights, where a dimension
            that is a name (or None) is dynamic, and the same name means the same size; or a
            ``TensorSpec``, which also has a type. For a program, shapes by input name, or None.
        out: the ONNX file to write. Weights beyond 1.9 GB go to ``OUT.data`` beside it.
        dynamic: shapes by input name, with names for the sizes of examples that are dynamic.
        opset: of the ONNX file.
        seed: of the inputs both are compared on.
        max_error: largest difference allowed, over the range of the output's values; 1e-4 when
            None, 5e-3 where weights are float16. For outputs that are no floating-point numbers:
            the largest share of elements that may differ.

    Raises:
        InputError: wrong inputs, a module that does not run with them or that torch cannot export,
            an opset torch has not, or an ``out`` that cannot be written.
        CheckError: the exported model does not load or computes something else; nothing is written.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InputError(f"opset {opset}: torch exports opsets {OLDEST_OPSET} to {NEWEST_OPSET}")
    files.check_writable(out)
    with _evaluating(module) as notes, torch.no_grad():
        subject = _subject(module, example_inputs, dynamic)
        cases = find_cases(subject.run, subject.arguments, seed)
        outputs = _name_outputs(subject.run(cases.runnable[0].draws[0]), subject.arguments)
        with parametrize.cached():  # weight_norm and the like become weights
            subject.run(cases.runnable[0].draws[0])
            model = convert(module, subject.arguments, cases.runnable[0], outputs, opset)
        layers = layers_of(model)
        model = canonical(model, seed)
        limit = usual_error(model) if max_error is None else max_error
        found: Validation = prove(model, layers, subject, cases.runnable, limit)
    notes += [*cases.notes, *merged_dimensions(model, subject.arguments)]
    written = files.save(model, out)
    notes += [f"the weights are in '{path}'; keep it beside the model" for path in written[1:]]
    return dataclasses.replace(found, notes=(*notes, *found.notes))


def _subject(module: Source, given: Any, dynamic: Mapping[str, Shape] | None) -> Subject:
    if isinstance(module, torch.nn.Module):
        return Subject(module, arguments_of(module, given, dynamic))
    if not isinstance(module, torch.export.ExportedProgram):
        raise InputError(f"cannot export a {type(module).__name__}; give a torch.nn.Module")
    if dynamic:
        raise InputError("dynamic: an exported program has its dynamic dimensions already")
    if not (given is None or isinstance(given, Mapping)):
        raise InputError(
            "an exported program has its arguments already; give shapes by input name, or None"
        )
    _check_mode(module)
    return Subject(module.module(), arguments_of_program(module, given or {}))


def _check_mode(program: torch.export.ExportedProgram) -> None:
    """Refuse a program that was made of a module in training mode."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for parameter, value in zip(schema.arguments if schema else (), node.args, strict=False):
            if parameter.name in _TRAINING and value is True:
                raise InputError(
                    f"the program was exported in training mode ({node.target}); call eval() on "
                    "the module before torch.export.export"
                )


def _name_outputs(outputs: Outputs, arguments: Arguments) -> list[str]:
    taken = {x.name for x in arguments.inputs}
    names: list[str] = unique_names(_output_name(place, taken) for place, _ in outputs)
    for name, (_, tensor) in zip(names, outputs, strict=True):
        if tensor.dtype not in TYPES.values():
            raise InputError(
                f"output '{name}' is {tensor.dtype}, which ONNX Runtime does not return to NumPy; "
                f"convert it to one of {', '.join(TYPES)}"
            )
    return names


def _output_name(place: str, taken: Collection[str]) -> str:
    if not place or place[0].isdigit() or place in taken:
        return f"output_{place}".rstrip("_")
    return place


@contextlib.contextmanager
def _evaluating(module: Source) -> Iterator[list[str]]:
    """Switch to evaluation mode for a while; yields the notes a reader needs about that."""
    if not isinstance(module, torch.nn.Module):
        yield []
        return
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield ["the module was in training mode, exported in evaluation mode"] if training else []
    finally:
        for part in training:
            part.training = True
