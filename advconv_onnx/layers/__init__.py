"""One file per layer family, with its builder, costs, float64 reference and cases.

A layer takes a ``Builder`` and a value, and returns a value: the next layer's input.
"""

from __future__ import annotations

from advconv_onnx.layers.activation import activation as activation
from advconv_onnx.layers.batch_norm import batch_norm as batch_norm
from advconv_onnx.layers.builder import Builder as Builder
from advconv_onnx.layers.conv import conv as conv
from advconv_onnx.layers.conv_transpose import conv_transpose as conv_transpose
from advconv_onnx.layers.depthwise_conv import depthwise_conv as depthwise_conv
from advconv_onnx.layers.depthwise_separable_conv import (
    depthwise_separable_conv as depthwise_separable_conv,
)
from advconv_onnx.layers.dilated_conv import dilated_conv as dilated_conv
from advconv_onnx.layers.grouped_conv import grouped_conv as grouped_conv
from advconv_onnx.layers.linear import linear as linear
from advconv_onnx.layers.merge import add as add
from advconv_onnx.layers.merge import concat as concat
from advconv_onnx.layers.pad_like import pad_like as pad_like
from advconv_onnx.layers.pointwise_conv import pointwise_conv as pointwise_conv
from advconv_onnx.layers.pooling import global_average_pool as global_average_pool
from advconv_onnx.layers.pooling import max_pool as max_pool
from advconv_onnx.layers.upsample import upsample as upsample
from advconv_onnx.layers.upsample_conv import upsample_conv as upsample_conv
