"""Frozen dataclasses that cross folders: what was found, proposed, proved and measured.

Nothing here computes beyond its own fields; ``report`` turns these records into text and JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Dim = int | str | None
"""One dimension: a size, the name of a symbolic size, or None when nothing is known."""

Shape = tuple[Dim, ...]

Status = Literal["applied", "refused", "slower", "inaccurate"]


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """What one layer costs for one batch.

    Attributes:
        parameters: weights and biases the model stores: none for weights it computes from its
            inputs; None when a stored one's shape is unknown.
        macs: multiply-accumulate operations; None when a needed dimension is symbolic.
        bytes: input, weights and output read or written once; None as for ``macs``.
    """

    parameters: int | None
    macs: int | None
    bytes: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class LayerCosts:
    """What one layer costs, before it is built.

    Attributes:
        costs: as ``advconv inspect`` counts them: weights and biases, no BatchNormalization; summed
            over the convolutions of a layer that consists of several.
        effective_kernel: extent of the dilated kernel per spatial axis, of the first convolution.
        receptive_field: pixels of the layer's input that reach one output pixel, per axis.
    """

    costs: Costs
    effective_kernel: tuple[int, ...]
    receptive_field: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One convolution-like layer of a graph, a row of ``advconv inspect``.

    Attributes:
        name: the node's name (of the last node for a layer spelled with several nodes).
        nodes: names of all nodes the layer consists of.
        graph: path of the graph that holds it: "" for the main graph, else e.g. "if_1/then_branch".
        kind: dense, pointwise, depthwise, grouped, transposed or upsample+convolution, optionally
            prefixed "dilated ".
        kernel_shape: None where unknown.
        effective_kernel: extent of the dilated kernel, ``(k - 1) * d + 1`` per axis.
        strides: empty where not even the number of axes is known, like ``dilations``.
        receptive_field: extent of the pixels of the graph's input that reach one output pixel, per
            axis; where branches meet, the larger; an upper bound behind a stride behind an
            upsampling. None where something above is not local.
    """

    name: str
    nodes: tuple[str, ...]
    graph: str
    kind: str
    kernel_shape: tuple[int, ...] | None
    effective_kernel: tuple[int, ...] | None
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int
    input_shape: Shape | None
    output_shape: Shape | None
    costs: Costs
    receptive_field: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """All convolution-like layers of a model, with the sums over them.

    Attributes:
        separable: rows in ``layers`` of each depthwise convolution and the pointwise one that
            completes it. Both remain rows of their own.
        parameters: weights that several layers share count once; None when a layer's are unknown.
        macs: each layer counted once, those in both branches of an If and in the body of a Loop
            too; None when a layer's MACs are unknown because a dimension is symbolic.
    """

    layers: tuple[Layer, ...]
    separable: tuple[tuple[int, int], ...]
    parameters: int | None
    macs: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model file in figures. ``bytes`` includes external data."""

    path: str
    sha256: str
    nodes: int
    parameters: int | None
    macs: int | None
    bytes: int
    opset: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rewrite:
    """One decision about one site of the graph.

    Attributes:
        rule: name of the rule or stage that proposed the change.
        nodes: names of the nodes it would replace.
        reason: why it was not applied, or what applying it achieved.
        certificate: what was proved about this site, empty when it was refused before a proof.
        speedup: measured ratio original / rewritten, None when nothing was timed.
    """

    rule: str
    nodes: tuple[str, ...]
    status: Status
    reason: str = ""
    certificate: str = ""
    speedup: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one inference."""

    median: float
    p90: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """Median of paired ratios with the bounds of its 95 % bootstrap confidence interval."""

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """One candidate of a paired measurement.

    Attributes:
        speedup: latency of the first candidate over this one's, paired round by round.
    """

    name: str
    latency: Latency
    speedup: Ratio


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """A paired measurement of several candidates in one run.

    Attributes:
        timings: one per candidate, the first being the baseline.
        noise: speedup of the baseline over a second copy of itself: the A/A noise floor.
        rounds: measured rounds.
        shape: the shapes of the inputs, as text such as "x=1x3x640x640".
        failures: candidates that did not load or run, and why; they have no timing.
    """

    timings: tuple[Timing, ...]
    noise: Ratio
    rounds: int
    shape: str
    failures: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorTime:
    """Time spent in all nodes of one operator type, as ONNX Runtime executes them.

    Attributes:
        op_type: after ONNX Runtime's own optimization, so names such as ReorderInput occur.
        count: nodes executed per inference.
        ms: milliseconds per inference.
        share: part of the time of all nodes, 0 to 1.
    """

    op_type: str
    count: int
    ms: float
    share: float


@dataclasses.dataclass(frozen=True, slots=True)
class TensorCheck:
    """One tensor compared between two models, over all inputs tried.

    Attributes:
        tensor: name of the output, or of the inner tensor compared in its place.
        max_relative: largest absolute difference over the range of the reference's values.
        range: largest minus smallest value of the reference.
        stands_for: the degenerate output that this inner tensor replaces, "" for an output.
    """

    tensor: str
    max_relative: float
    range: float
    stands_for: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Validation:
    """Whether two models agree, and on what evidence.

    Attributes:
        passed: every compared tensor is within ``max_error``, and something could be compared.
        inputs: how many input samples were tried.
        shapes: the input shapes tried, as text such as "x=1x3x65x97".
        notes: what the reader must know: degenerate outputs, shapes that could not be run ...
    """

    passed: bool
    max_error: float
    checks: tuple[TensorCheck, ...]
    inputs: int
    shapes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def max_relative(self) -> float:
        """The worst relative difference over all compared tensors."""
        return max((check.max_relative for check in self.checks), default=0.0)

    @property
    def failure(self) -> str:
        """Why it failed, in one line."""
        worst = max(self.checks, key=lambda check: check.max_relative, default=None)
        if worst is not None and worst.max_relative > self.max_error:
            return f"'{worst.tensor}' differs by {worst.max_relative:.1e} of its range"
        return "; ".join(self.notes) or "the outputs differ"


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """Where something was measured."""

    provider: str
    threads: int
    processor: str
    onnxruntime: str


@dataclasses.dataclass(frozen=True, slots=True)
class ProviderStatus:
    """Whether an execution provider can be used here, and if not, why and what to install."""

    name: str
    available: bool
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Nodes per execution provider, and the names of those not where they were asked to be."""

    counts: Mapping[str, int]
    elsewhere: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """Models timed against each other on one provider.

    Attributes:
        measurement: its candidates are named by the models' paths.
        placements: by path, where a provider other than the CPU was asked for.
    """

    device: Device
    measurement: Measurement
    placements: Mapping[str, Placement]


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """A layer or network that was built and written.

    Attributes:
        parameters: all weights and biases, those of BatchNormalization among them; its statistics
            are no parameters.
        inspection: of its convolutions.
    """

    name: str
    path: str
    opset: int
    input_shape: Shape
    output_shape: Shape
    parameters: int
    bytes: int
    inspection: Inspection


@dataclasses.dataclass(frozen=True, slots=True)
class Alternative:
    """One way to convolve, among others on the same input.

    Attributes:
        name: what it is, with what sets it apart: "8 groups 3x3".
        layer: name of the layer that builds it.
    """

    name: str
    layer: str
    costs: LayerCosts
    output_shape: Shape


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Kinds of convolution on one input, their costs beside their latencies.

    Attributes:
        alternatives: the first one, dense, is what the others are compared with.
        measurement: its candidates are named as the alternatives are.
    """

    alternatives: tuple[Alternative, ...]
    measurement: Measurement
    device: Device


@dataclasses.dataclass(frozen=True, slots=True)
class PackageStatus:
    """An installed Python package, or (``version`` None) a missing one and what to type then."""

    name: str
    version: str | None
    purpose: str
    install: str


@dataclasses.dataclass(frozen=True, slots=True)
class Doctor:
    """What works on this machine. ``device`` has the CPU and its physical cores."""

    device: Device
    providers: tuple[ProviderStatus, ...]
    packages: tuple[PackageStatus, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Everything ``optimize`` did: the JSON schema 1 of the command line."""

    model: ModelSummary
    optimized: ModelSummary
    device: Device
    validation: Validation
    rewrites: tuple[Rewrite, ...]
    measurement: Measurement | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AxisPattern:
    """How a layer reads one spatial axis, on an input just large enough to show it.

    Attributes:
        pixels: size of that input.
        cells: the grid the kernel slides over: the input pixels each cell is made of with their
            weights, none for a zero: padding, or one inserted between pixels.
        padding: cells before and after the image, those that repeat pixels included.
        windows: by output pixel, the cell under each tap; the first one lies at the border.
        interior: an output pixel that sees no padding where there is one.
    """

    pixels: int
    cells: tuple[tuple[tuple[int, float], ...], ...]
    padding: tuple[int, int]
    windows: tuple[tuple[int, ...], ...]
    interior: int


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelBlock:
    """Channels that are all connected with each other, first and behind the last."""

    outputs: tuple[int, int]
    inputs: tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Impulses:
    """A measurement that agrees with what a layer's attributes say.

    Attributes:
        onnxruntime: version of ONNX Runtime.
        runs: inputs that were tried.
        difference: the largest one from any coefficient that the attributes claim.
    """

    onnxruntime: str
    runs: int
    difference: float


@dataclasses.dataclass(frozen=True, slots=True)
class LayerCard:
    """One layer explained: what it reads, as measured, and what it costs.

    Attributes:
        channels: of the input and of the output.
        axes: one per spatial axis.
        blocks: which output channels read which input channels.
        field: input pixels from the first to the last one that reach an output pixel, per axis.
        interpolation: nearest, linear or cubic where the layer resizes, else "".
        scales: by how much it resizes, per axis.
        costs: of one image, unlike those in ``layer``, which are for the model's batch.
        dense: costs of one image in a convolution from all channels to all, without gaps, that
            covers the same cells; None for a layer without weights.
    """

    layer: Layer
    channels: tuple[int, int]
    axes: tuple[AxisPattern, ...]
    blocks: tuple[ChannelBlock, ...]
    field: tuple[int, ...]
    interpolation: str
    scales: tuple[float, ...]
    costs: Costs
    dense: Costs | None
    impulses: Impulses


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """How one form did in one window, or any variant of a model.

    Attributes:
        ratio: latency of the window as it is over that with the form; None if it has none.
        ms: median latency of the window as it is.
        failure: why there is no ratio: the form crashed, hung, did not load, could not win.
    """

    ratio: Ratio | None
    ms: float
    failure: str = ""

    @property
    def saved_ms(self) -> float:
        """Milliseconds that it saves per inference; 0 if it has no ratio."""
        return self.ms * (1 - 1 / self.ratio.median) if self.ratio else 0.0

    @property
    def uncertain_ms(self) -> float:
        """Half the width of the interval that ``saved_ms`` lies in."""
        return self.ms * (1 / self.ratio.low - 1 / self.ratio.high) / 2 if self.ratio else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """A figure that is kept, with all that it depends on.

    Attributes:
        situation: where it was measured: provider, threads, processor and versions, as text.
        window: signature of the window: equal where nothing differs that matters to a timing.
        form: name of the form.
    """

    situation: str
    window: str
    form: str
    figure: Figure


@dataclasses.dataclass(frozen=True, slots=True)
class LayerPrecision:
    """What a lower precision does to one layer.

    Attributes:
        node: name of the node.
        error: largest difference that the layer alone makes, relative to its output's range (in 8
            bits, to that of the model's outputs); infinite where values leave the range of the
            lower precision.
        kept: why the layer stays in float32, "" if it does not.
    """

    node: str
    op_type: str
    error: float
    kept: str


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """What a model was converted to, and the evidence that it is still the model.

    Attributes:
        target: name of the target, as ``advconv convert --to`` takes it.
        files: what was written.
        bytes: size of these files.
        layers: what was decided about each layer, for targets that decide about layers.
        measurement: of the model as it was, and of what it was converted to.
    """

    target: str
    files: tuple[str, ...]
    bytes: int
    validation: Validation
    layers: tuple[LayerPrecision, ...] = ()
    notes: tuple[str, ...] = ()
    measurement: Measurement | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FileFailure:
    """A file that a model could not be run on, or a folder that could not be read, and why."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A model run on files.

    Attributes:
        out: the folder of the results.
        written: files whose results were written by this run.
        kept: files whose results were there already.
        seconds: from the first file to the last.
        batch: files that an inference takes at most.
        workers: processes that ran the model.
        latency: of one inference, of as many files; None where there was none.
        notes: what was decided for whoever did not say it.
    """

    out: str
    written: int
    kept: int
    failures: tuple[FileFailure, ...]
    seconds: float
    batch: int
    workers: int
    latency: Latency | None
    device: Device
    notes: tuple[str, ...] = ()

    @property
    def per_second(self) -> float:
        """Files per second, reading and writing included."""
        return self.written / self.seconds if self.seconds else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class OutputSummary:
    """One output of an inference in figures, those of finite values; None where there are none."""

    name: str
    type: str
    shape: tuple[int, ...]
    smallest: float | None
    largest: float | None
    mean: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Inference:
    """A model run once.

    Attributes:
        out: the .npz file with the outputs.
        ms: of the one inference, the first of its session.
        labels: the likeliest classes with their probabilities, where the classes have labels.
    """

    out: str
    outputs: tuple[OutputSummary, ...]
    ms: float
    labels: tuple[tuple[str, float | None], ...]
    notes: tuple[str, ...] = ()
