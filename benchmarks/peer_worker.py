"""One contestant of ``networks.py``: a process that holds one model in one runtime.

Runs in the virtual environment of that runtime, where this project is not installed; apart from the
runtime it needs numpy. The first line it reads is a request, a JSON object: ``runtime``, ``model``
(a file), ``inputs`` and ``outputs`` (names), ``arrays`` (an .npz file with ``arr_0``, ``arr_1`` ...
in the order of the inputs), ``threads``, and ``results`` (the .npz file to write what the model
answers to). For every further line it makes one unmeasured and one measured inference and answers
with the nanoseconds. It ends with its standard input.

Everything is float32, and besides the threads every option is what the runtime chooses by itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

Request = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]
Run = Callable[[], Sequence[np.ndarray]]


def load_onnxruntime(request: Request, inputs: Arrays) -> Run:
    """Open a session as the rest of this project does."""
    ort = import_module("onnxruntime")

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = request["threads"]
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(request["model"], options, ["CPUExecutionProvider"])
    return lambda: session.run(request["outputs"], dict(inputs))


def load_openvino(request: Request, inputs: Arrays) -> Run:
    """Compile for latency; without the hint the CPU plugin may choose bfloat16."""
    openvino = import_module("openvino")

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": request["threads"],
    }
    compiled = openvino.Core().compile_model(request["model"], "CPU", options)
    infer = compiled.create_infer_request()
    outputs = [compiled.output(name) for name in request["outputs"]]

    def run() -> list[np.ndarray]:
        infer.infer(inputs, share_inputs=True)
        return [infer.get_tensor(output).data for output in outputs]

    return run


def load_mnn(request: Request, inputs: Arrays) -> Run:
    """Load what its converter wrote; "high" is its word for float32."""
    expr, nn = import_module("MNN.expr"), import_module("MNN.nn")

    config = {"backend": "CPU", "precision": "high", "numThread": request["threads"]}
    module = nn.load_module_from_file(
        request["model"],
        request["inputs"],
        request["outputs"],
        runtime_manager=nn.create_runtime_manager((config,)),
    )
    values = [expr.const(array, list(array.shape), expr.NCHW) for array in inputs.values()]

    def run() -> list[np.ndarray]:
        outputs = module.forward(values)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return [expr.convert(output, expr.NCHW).read() for output in outputs]

    return run


def load_ncnn(request: Request, inputs: Arrays) -> Run:
    """Load what pnnx wrote; ncnn knows no batches, so images take their turns."""
    ncnn = import_module("ncnn")

    net = ncnn.Net()
    net.opt.num_threads = request["threads"]
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    weights = os.path.splitext(request["model"])[0] + ".bin"
    if net.load_param(request["model"]) or net.load_model(weights):
        raise RuntimeError("ncnn does not load what pnnx wrote")
    batch = len(next(iter(inputs.values())))
    images = [[ncnn.Mat(array[i]).clone() for array in inputs.values()] for i in range(batch)]

    def extract(image: Sequence[Any]) -> list[np.ndarray]:
        extractor = net.create_extractor()
        for index, mat in enumerate(image):
            extractor.input(f"in{index}", mat)
        return [np.array(extractor.extract(name)[1]) for name in net.output_names()]

    return lambda: [np.stack(each) for each in zip(*map(extract, images), strict=True)]


LOADERS: Mapping[str, Callable[[Request, Arrays], Run]] = {
    "mnn": load_mnn,
    "ncnn": load_ncnn,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
}


def main() -> None:
    """Serve one model on standard input and output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    request = json.loads(sys.stdin.readline())
    with np.load(request["arrays"]) as arrays:
        inputs = {name: arrays[f"arr_{i}"] for i, name in enumerate(request["inputs"])}
    run = LOADERS[request["runtime"]](request, inputs)
    np.savez(request["results"], *run())
    print(json.dumps({"loaded": True}), file=answers, flush=True)
    for _ in sys.stdin:
        run()
        start = time.perf_counter_ns()
        run()
        print(json.dumps({"ns": time.perf_counter_ns() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
