"""What a model's author noted on nodes and values, handed on to what replaces them."""

from __future__ import annotations

import onnx_ir as ir


def hand_on(old: ir.Node | ir.Value, new: ir.Node | ir.Value) -> None:
    """Give doc string, metadata and annotations of quantization to a replacement.

    What the replacement has of its own stays.
    """
    new.doc_string = new.doc_string or old.doc_string
    for key, text in old.metadata_props.items():
        new.metadata_props.setdefault(key, text)
    for name, note in old.meta.items():
        new.meta.setdefault(name, note)
