"""Exact mathematics of the layers: no ONNX, no clock."""
