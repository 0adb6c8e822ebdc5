"""Models for tests, from ONNX text."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from advconv_onnx import model as files


def parse(text: str, **weights: np.ndarray) -> ir.Model:
    """Parse a model, add ``weights`` as initializers, and infer shapes."""
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = ir.from_proto(proto)
    files.infer_shapes(model)
    return model


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded float32 values of both signs."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
