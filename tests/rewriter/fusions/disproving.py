"""How a mutant is shown to be caught: a rule with one mistake, whose sites must be disproved."""

from __future__ import annotations

from typing import Any

import onnx.parser
import onnx_ir as ir

from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter.rule import Rule
from advconv_onnx.rewriter.simplify import settle


def mutate(parent: type[Rule[Any]], **methods: Any) -> Rule[Any]:
    """A rule with other methods."""
    mutant: Rule[Any] = type("Mutant", (parent,), methods)()
    return mutant


def assert_disproved(mutant: Rule[Any], text: str) -> None:
    """Check that a mutant finds a site in a model, that the site runs, and that its proof fails."""
    model = settle(ir.from_proto(onnx.parser.parse_model(text)))
    fusing = fuse(model, [mutant], seed=0)
    assert not fusing.applied, fusing.applied[0].certificate
    assert [record for record in fusing.refused if record.status == "inaccurate"]
