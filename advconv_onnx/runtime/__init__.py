"""Everything that touches an ONNX Runtime session or a clock."""
