"""What a torch module is called with: tensors in nested structures, and constants between them."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.records import Shape

Dims = tuple[int | str, ...]
"""A shape whose dynamic dimensions all have names."""

Tensors = Mapping[str, torch.Tensor]

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments by position, and by keyword."""

TYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
"""What inputs can be, by ONNX's and NumPy's names: neither NumPy nor ONNX Runtime has more."""


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that is described instead of given.

    Attributes:
        shape: sizes are fixed, names and None stay dynamic.
        dtype: a name in ``TYPES``; None for the type of the module's weights.
    """

    shape: Shape
    dtype: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """One tensor that a module takes.

    Attributes:
        name: its place among the arguments: "x", "pair_0", "options_mask".
        example: a value that the module accepts, if there is one.
    """

    name: str
    dims: Dims
    dtype: torch.dtype
    device: torch.device
    example: torch.Tensor | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Arguments:
    """Arguments of a module, with tensors to be filled in.

    Attributes:
        leaves: inputs, and constants in between, in the order of the structure.
        structure: of positions and keywords.
        parameters: the same by the names of parameters; None for exported programs.
    """

    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec
    parameters: pytree.TreeSpec | None

    @property
    def inputs(self) -> list[Input]:
        """The tensors among them."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Input)]

    def fill(self, tensors: Tensors) -> Call:
        """Put tensors in their places."""
        values = [tensors[x.name] if isinstance(x, Input) else x for x in self.leaves]
        args, kwargs = pytree.tree_unflatten(values, self.structure)
        return args, kwargs

    @property
    def dynamic(self) -> dict[str, Any] | None:
        """The dynamic dimensions as torch.export wants them; None when there are none."""
        if self.parameters is None:
            return None
        axes = [_dynamic_axes(leaf) for leaf in self.leaves]
        shapes: dict[str, Any] = pytree.tree_unflatten(axes, self.parameters)
        return shapes if any(axes) else None


def _dynamic_axes(leaf: Any) -> dict[int, str] | None:
    if not isinstance(leaf, Input):
        return None
    return {axis: dim for axis, dim in enumerate(leaf.dims) if isinstance(dim, str)}


def arguments_of(
    module: torch.nn.Module, given: Any, dynamic: Mapping[str, Shape] | None = None
) -> Arguments:
    """Arrange example inputs as the module's ``forward`` takes them.

    Args:
        module: whose parameters they are for.
        given: a tensor; a tuple or list of arguments; or a mapping of keywords, in which a tuple of
            sizes and names stands for a tensor of that shape.
        dynamic: by input name, the shape with names for what is dynamic in an example.

    Raises:
        InputError: they do not fit the parameters, or a tensor is of a type ONNX has not.
    """
    args, keywords = _positions_and_keywords(given)
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*args, **keywords)
    except TypeError as error:
        takes = ", ".join(f"'{name}'" for name in signature.parameters)
        raise InputError(f"--input: {error}; the module's forward takes {takes}") from error
    placed, parameters = pytree.tree_flatten_with_path(dict(bound.arguments), is_leaf=_is_spec)
    _, structure = pytree.tree_flatten((bound.args, bound.kwargs), is_leaf=_is_spec)
    names = unique_names(spell_place(path) for path, _ in placed)
    known = dict(dynamic or {})
    inputs = tuple(
        _input(module, name, leaf, known.pop(name, None))
        for name, (_, leaf) in zip(names, placed, strict=True)
    )
    for name in known:
        tensors = ", ".join(f"'{x.name}'" for x in inputs if isinstance(x, Input))
        raise InputError(f"dynamic '{name}': no such input; the tensors are {tensors}")
    return _checked(Arguments(inputs, structure, parameters))


def _positions_and_keywords(given: Any) -> Call:
    if isinstance(given, Mapping):
        return (), {name: _as_spec(value) for name, value in given.items()}
    if isinstance(given, tuple | list):
        return tuple(given), {}
    return (given,), {}


def _as_spec(value: Any) -> Any:
    is_shape = isinstance(value, tuple | list) and all(
        dim is None or isinstance(dim, int | str) for dim in value
    )
    return TensorSpec(tuple(value)) if is_shape else value


def _is_spec(value: Any) -> bool:
    return isinstance(value, TensorSpec)


def _input(module: torch.nn.Module, name: str, leaf: Any, dynamic: Shape | None) -> Any:
    if isinstance(leaf, torch.Tensor):
        dims = _named_dims(name, tuple(leaf.shape), dynamic)
        return Input(name, dims, leaf.dtype, leaf.device, leaf.detach())
    if dynamic is not None:
        raise InputError(f"dynamic '{name}': it is no tensor among the example inputs")
    if not isinstance(leaf, TensorSpec):
        return leaf
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = TYPES.get(leaf.dtype) if leaf.dtype else like.dtype
    if dtype is None:
        raise InputError(f"input '{name}' of type {leaf.dtype}; use {', '.join(TYPES)}")
    return Input(name, _name_dims(name, leaf.shape), dtype, like.device)


def _name_dims(name: str, shape: Shape) -> Dims:
    return tuple(f"{name}_{axis}" if dim is None else dim for axis, dim in enumerate(shape))


def _named_dims(name: str, sizes: tuple[int, ...], wanted: Shape | None) -> Dims:
    """Check names for the dynamic dimensions of something whose sizes are known."""
    if wanted is None:
        return sizes
    fits = len(wanted) == len(sizes) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(wanted, sizes, strict=True)
    )
    if not fits:
        raise InputError(
            f"dynamic '{name}': {files.format_shape(wanted)} does not fit the example, which is "
            f"{files.format_shape(sizes)}; give its sizes, or names in their place"
        )
    return _name_dims(name, wanted)


def arguments_of_program(
    program: torch.export.ExportedProgram, given: Mapping[str, Shape | TensorSpec]
) -> Arguments:
    """The arguments an exported program was made for, with names for what is dynamic in it.

    Args:
        program: it fixes structure, types, and which dimensions are dynamic.
        given: shapes by input name, to name or fix dimensions; may be empty.

    Raises:
        InputError: no such input, another rank, or a size that is not free in the program.
    """
    fakes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    wanted = dict(given)
    leaves: list[Any] = []
    for name in program.graph_signature.user_inputs:
        fake = fakes.get(name) if isinstance(name, str) else None
        if isinstance(fake, torch.Tensor):
            dims = tuple(size if isinstance(size, int) else str(size) for size in fake.shape)
            asked = wanted.pop(name, None)
            shape = asked.shape if isinstance(asked, TensorSpec) else asked
            leaves.append(Input(name, _renamed(name, dims, shape), fake.dtype, fake.device))
        else:
            leaves.append(name if fake is None else fake)
    for name in wanted:
        known = ", ".join(f"'{x.name}'" for x in leaves if isinstance(x, Input))
        raise InputError(f"--input '{name}': the program has no such input; it has {known}")
    assert program.call_spec.in_spec is not None, "torch.export records how it was called"
    return _checked(Arguments(tuple(leaves), program.call_spec.in_spec, None))


def _renamed(name: str, dims: Dims, wanted: Shape | None) -> Dims:
    if wanted is None:
        return dims
    fits = len(wanted) == len(dims) and all(
        isinstance(dim, str) or dim == asked for dim, asked in zip(dims, wanted, strict=True)
    )
    if not fits:
        raise InputError(
            f"--input '{name}': {files.format_shape(wanted)} asked for, the exported program has "
            f"{files.format_shape(dims)}; keep its sizes, or export it with these dynamic"
        )
    return _name_dims(name, wanted)


def _checked(arguments: Arguments) -> Arguments:
    if not arguments.inputs:
        raise InputError("the module takes no tensor; export one whose inputs are tensors")
    for x in arguments.inputs:
        if x.dtype not in TYPES.values():
            raise InputError(
                f"input '{x.name}' is {x.dtype}, which ONNX Runtime does not take from NumPy; "
                f"convert it to one of {', '.join(TYPES)}"
            )
        if any(isinstance(dim, int) and dim < 1 for dim in x.dims):
            wrong = files.format_shape(x.dims)
            raise InputError(f"--input '{x.name}': sizes must be at least 1, got {wrong}")
    return arguments


def spell_place(path: Sequence[Any]) -> str:
    """Name a place in a structure by the keys and positions that lead to it."""
    return re.sub(r"\W", "", "_".join(map(str, path)))


def unique_names(names: Iterable[str]) -> list[str]:
    """Number the repetitions of names."""
    made: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        candidates = itertools.chain([name], numbered)
        made[next(unique for unique in candidates if unique not in made)] = None
    return list(made)
