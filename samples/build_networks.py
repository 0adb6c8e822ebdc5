"""Build every network of this package, run each once, and print what they are.

    python samples/build_networks.py
    python samples/build_networks.py unet resnext --size 224

Weights are drawn, not trained. Parameters do not count the statistics of BatchNormalization.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

import advconv_onnx
from advconv_onnx.catalog import INPUT, OUTPUT, Entry, entries
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

NETWORKS = {name: entry for name, entry in entries().items() if entry.kind == "network"}

LINE = "{:13} {:>11} {:>7}  {:14} {:>4}  {}"


def describe(entry: Entry, size: int) -> str:
    """Build a network for one image of ``size`` pixels per axis and run it: a line of the table."""
    batch, channels, *axes = (dim if isinstance(dim, int) else 1 for dim in entry.input_shape)
    shape = (batch, channels, *[1 if axis == 1 else size for axis in axes])
    model = advconv_onnx.build(entry.name, input_shape=shape)
    parameters = sum(
        value.const_value.size
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and name.endswith((".weight", ".bias"))
    )
    macs = advconv_onnx.inspect(model).macs
    session = open_session(model)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    start = time.perf_counter()
    output = run_session(session, {INPUT: image})[OUTPUT]
    ms = (time.perf_counter() - start) * 1e3
    return LINE.format(
        entry.name,
        f"{parameters:,}",
        "?" if macs is None else f"{macs / 1e6:,.0f}",
        "x".join(map(str, output.shape)),
        f"{ms:.0f}",
        entry.summary.partition(": ")[2],
    )


def main() -> int:
    """Run the sample."""
    parser = argparse.ArgumentParser(description="Build and run the networks of this package.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--size", type=int, default=128, help="pixels per axis of the image")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.networks) - set(NETWORKS))
    if unknown:
        parser.error(f"no network '{unknown[0]}'; use {', '.join(NETWORKS)}")

    print(LINE.format("network", "parameters", "MMACs", "output", "ms", "known for"))
    try:
        for name in arguments.networks or NETWORKS:
            print(describe(NETWORKS[name], arguments.size), flush=True)
    except advconv_onnx.AdvconvError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print("ms is one run, an impression; advconv bench measures.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
