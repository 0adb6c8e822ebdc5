"""Where ONNX Runtime runs a convolution in groups as fast as the groups one by one, or faster.

Its layout for images takes channels in blocks of 8 (AVX2) or 16 (AVX-512) numbers, and a grouped
convolution only if each group fills them; another one it computes outside that layout.
"""

from __future__ import annotations

WIDEST_BLOCK = 16
"""Channels that fill blocks on every machine."""

BLOCKED_RANK = 4
"""Only images of two axes are laid out in blocks."""


def fills_blocks(inputs: int, outputs: int) -> bool:
    """Whether groups of so many input and output channels are laid out in blocks.

    A depthwise convolution is, whatever its channels.
    """
    return inputs == outputs == 1 or (inputs % WIDEST_BLOCK == 0 and outputs % WIDEST_BLOCK == 0)
