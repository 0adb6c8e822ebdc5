"""Reshape, Transpose, Reshape: how exporters spell pixel and channel shuffles."""

from __future__ import annotations

import abc
import dataclasses

import onnx_ir as ir

from advconv_onnx.rewriter.layout import Size, Sizes, permutation, resolve, sizes_of
from advconv_onnx.rewriter.rule import NoSite, Plan, Rule
from advconv_onnx.rewriter.shapes import numbers_of
from advconv_onnx.rewriter.walk import input_of, producer


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """A tensor that is split, permuted and merged again.

    Attributes:
        x: the tensor.
        sizes: its sizes.
        split: sizes between the first Reshape and the Transpose.
        perm: of the Transpose.
        merged: sizes behind the second Reshape.
        nodes: the three, and those that compute the targets of the Reshapes from sizes.
    """

    x: ir.Value
    sizes: Sizes
    split: Sizes
    perm: tuple[int, ...]
    merged: Sizes
    nodes: tuple[ir.Node, ...]


def shuffle_of(root: ir.Node) -> Shuffle:
    """Read the shuffle that ends in a Reshape.

    Raises:
        NoSite: it ends no shuffle, or its sizes are not known.
    """
    transpose = producer(root.inputs[0], "Transpose", graph=root.graph)
    first = producer(transpose.inputs[0], "Reshape", graph=root.graph)
    x = first.inputs[0]
    assert x is not None
    sizes = sizes_of(x)
    split, splitting = _target(first, sizes)
    perm = permutation(transpose)
    if len(perm) != len(split):
        raise NoSite
    merged, merging = _target(root, tuple(split[axis] for axis in perm))
    nodes = (*dict.fromkeys((*splitting, *merging)), first, transpose, root)
    return Shuffle(x, sizes, split, perm, merged, nodes)


class ShuffleRule(Rule[Plan], abc.ABC):
    """A rule whose sites are shuffles; what only computes the targets may stay for others."""

    roots = frozenset(("Reshape",))
    affine_in_weights = False
    needs_shapes = True

    def keeps(self, node: ir.Node) -> bool:
        """Whether a node computes a target."""
        return node.op_type not in ("Reshape", "Transpose")


def shuffle_text(split: str, perm: str, merged: str, x: str, out: str) -> str:
    """A shuffle of an input as ONNX text, for the examples of rules."""
    shapes = ", ".join(
        f"int64[{len(sizes.split(','))}] {name} = {{{sizes}}}"
        for name, sizes in (("s", split), ("t", merged))
    )
    return f"""<ir_version: 8, opset_import: ["" : 13]> g ({x} x) => ({out}) <{shapes}> {{
        a = Reshape(x, s)
        b = Transpose <perm = [{perm}]> (a)
        z = Reshape(b, t)
    }}"""


def _target(reshape: ir.Node, sizes: Sizes) -> tuple[Sizes, tuple[ir.Node, ...]]:
    wanted = numbers_of(input_of(reshape, 1), reshape.graph)
    target: list[Size] = [size for size in wanted.items if size is not None]
    if len(target) < len(wanted.items):
        raise NoSite
    keeps_zero = bool(reshape.attributes.get_int("allowzero", 0))
    return resolve(target, sizes, keeps_zero), wanted.nodes
