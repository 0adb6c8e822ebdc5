"""torch's dynamo exporter: a module traced and translated to ONNX, canonical afterwards."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
import torch

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.exporters.torch_arguments import Arguments, Dims
from advconv_onnx.exporters.torch_cases import Case
from advconv_onnx.exporters.torch_output import one_line, silence
from advconv_onnx.exporters.torch_source import Source
from advconv_onnx.exporters.torch_translations import translations
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.simplify import fold_constants, settle, tidy

OLDEST_OPSET, NEWEST_OPSET = 18, 23
"""What torch's exporter has implementations for."""

_LARGEST_FOLDED = 1 << 20
"""Elements up to which an expression of constants is computed when a module is exported."""

_REMEDIES = (
    (r"data-dependent", "use torch.where or torch.cond instead of Python's if and sizes in values"),
    (r"No ONNX function found|No decompositions", "compute it with other operators of torch"),
    (r"complex", "compute with real and imaginary parts: ONNX has no complex numbers"),
    (
        r"[Cc]onstraints|static shape|specialized|\bguard",
        "fix the dimensions it names with --input",
    ),
    (r"tree_name", "name the parameters: torch.export has no dynamic sizes in **keywords"),
    (r"no attribute 'name'", "let forward return tensors only"),
    (r"numpy|fake|Fake", "use torch's functions only, on tensors"),
)
"""What to do about a message, by a part of it; the first that fits."""

_CALLING = ("_wrapped_call_impl", "_call_impl")
"""How torch calls the forward of a module."""

_OTHER_REMEDY = "fix dimensions with --input, or make the module traceable by torch.export"


_CHATTER = r" (?:\(unhinted|consider using|Caused by|For more information|See the|Failure message)"
"""How what torch says after the reason begins."""


def convert(
    source: Source, arguments: Arguments, case: Case, outputs: Sequence[str], opset: int
) -> ir.Model:
    """Trace a module and translate it, with names for inputs, outputs and dynamic dimensions.

    Nodes have the qualified name of their torch module in ``metadata_props``.

    Raises:
        InputError: torch cannot; the message names the module, the operator or line, and a remedy.
    """
    args, kwargs = arguments.fill(case.draws[0])
    names = [x.name for x in arguments.inputs]
    try:
        with silence():
            program = torch.onnx.export(
                source,
                args,
                kwargs=kwargs,
                dynamic_shapes=arguments.dynamic,
                input_names=names,
                output_names=list(outputs),
                opset_version=opset,
                custom_translation_table=translations(),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch's exporter promises no particular exception
        raise _explained(error, source, case) from error
    assert program is not None, "torch.onnx.export returns a program with dynamo=True"
    model = program.model
    if files.opset(model) != opset:
        raise InputError(
            f"torch exports this module to opset {files.opset(model)}, not {opset}; give --opset "
            f"{files.opset(model)}"
        )
    _name_dimensions(model, {x.name: x.dims for x in arguments.inputs})
    # Inner values make way where an output was named like one of them.
    ir_passes.NameFixPass()(model)
    return model


def _name_dimensions(model: ir.Model, wanted: Mapping[str, Dims]) -> None:
    """Call dimensions as they were asked for: torch does not where arguments are nested."""
    names: dict[str, str] = {}
    for x in model.graph.inputs:
        for found, asked in zip(x.shape or (), wanted[x.name or ""], strict=True):
            if isinstance(found, ir.SymbolicDim) and found.value and isinstance(asked, str):
                names.setdefault(found.value, asked)
    for value in ir.convenience.create_value_mapping(model.graph).values():
        if value.shape is not None:
            value.shape = ir.Shape(
                re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.value)
                if isinstance(dim, ir.SymbolicDim) and dim.value
                else dim
                for dim in value.shape
            )


def canonical(model: ir.Model, seed: int) -> ir.Model:
    """Fold what is constant or affine, and drop what tells about the exporting machine."""
    ir_passes.ClearMetadataAndDocStringPass()(model)
    for value in ir.convenience.create_value_mapping(model.graph).values():
        value.metadata_props.clear()
    with silence():  # onnxscript tells what it does not fold
        model, _ = tidy(model)
        fold_constants(model, _LARGEST_FOLDED)
        return fuse(settle(model), all_rules(), seed=seed).model


def merged_dimensions(model: ir.Model, arguments: Arguments) -> Iterator[str]:
    """Name the dimensions that torch found to be less free than they were asked to be."""
    asked = {x.name: x.dims for x in arguments.inputs}
    for value in model.graph.inputs:
        wanted = asked[value.name or ""]
        if value.shape is not None and ir.Shape(wanted) != value.shape:
            yield (
                f"'{value.name}' was asked to be {files.format_shape(wanted)}, the module "
                f"allows {files.format_shape(value.shape)}"
            )


def _explained(error: Exception, source: Source, case: Case) -> InputError:
    """Say which module and operator torch stopped at, why, and what to do."""
    causes = [error]
    while isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    found = causes[-1]
    where = next(filter(None, (_place(cause, source) for cause in reversed(causes))), "the module")
    reason = re.split(_CHATTER, one_line(found))[0].rstrip(".")
    text = " ".join(one_line(cause) for cause in causes)
    remedy = next((do for sign, do in _REMEDIES if re.search(sign, text)), _OTHER_REMEDY)
    return InputError(
        f"torch cannot export {where} at {case.text}: {type(found).__name__}: {reason}; {remedy}"
    )


def _place(error: Exception, source: Source) -> str:
    """The innermost module, with the operator or the line, in which an error was raised."""
    named = source.named_modules() if isinstance(source, torch.nn.Module) else ()
    names = {id(part): name for name, part in named}
    place = ""
    frames = traceback.walk_tb(error.__traceback__)
    lines = traceback.extract_tb(error.__traceback__)
    for (frame, _), line in zip(frames, lines, strict=True):
        node = frame.f_locals.get("node")
        owner = frame.f_locals.get("".join(frame.f_code.co_varnames[:1]))  # whatever self is called
        if isinstance(node, torch.fx.Node) and node.op == "call_function":
            place = f"{node.target} of {_layer_of(node)}"
        elif id(owner) in names and line.name not in _CALLING and hasattr(owner, line.name):
            layer = spell_layer(names[id(owner)], type(owner).__name__)
            place = f"`{line.line}` of {layer}"
    return place


def _layer_of(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    name, kind = list(stack.values())[-1] if stack else ("", "")
    return spell_layer(name, str(kind).rpartition(".")[2])


def spell_layer(name: str, kind: str = "") -> str:
    """Name a submodule as ``named_modules`` does, with its class."""
    of_kind = f" ({kind})" if kind else ""
    return (f"layer '{name}'" if name else "the module itself") + of_kind
