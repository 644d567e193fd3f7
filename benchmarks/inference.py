"""Time an exported model beside the same network with its batch normalization, and beside PyTorch eager.

    python benchmarks/inference.py [--rounds 9] [--seconds 0.3] [--threads 2] [--json FILE]

What a user would deploy without netc's export is the network with BatchNormalization nodes and its trained values as
constants, as a converter writes it: `unfolded` here. ONNX Runtime folds such nodes itself where it can while it loads
the file; `as written` forbids it that. PyTorch runs in evaluation mode under torch.inference_mode. All four give the
same scores, which is asserted. Blocks of calls alternate, and medians of the rounds are compared. The time of the
export is that of folding the values and writing the checked file's bytes, without the comparison on the test split.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from benchmarks import networks
from benchmarks.machine import description
from benchmarks.workloads import ZOO, load_spec
from netc.build import build
from netc.emit import write
from netc.graph.builder import IR_VERSION
from netc.network import lower
from netc.programs import output_entries
from netc.rewrite.passes import clean
from netc.spec.load import Loaded
from netc_runtime.artifact import Artifact
from netc_runtime.export import bake, fold, load_infer
from netc_runtime.session import Host

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20_cifar": networks.resnet20_cifar,
    "lenet_bn_dropout": networks.lenet_bn_dropout,
}
BATCHES = (1, 64)
# Of the largest score: rounding of float32 through twenty layers, in another order and with folded factors.
BOUND = 1e-3
Call = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Result:
    """Milliseconds a call by way, the median of each round; and of the export in all."""

    network: str
    batch: int
    milliseconds: dict[str, list[float]]
    export_milliseconds: float
    difference: float


def trained_like(artifact: Artifact) -> dict[str, np.ndarray]:
    """Return the first state with other values for all that is 0 or 1 in it, so that folding has something to do."""
    rng = np.random.default_rng(0)
    state = artifact.initial_state()
    for tensor in artifact.state:
        value = state[tensor.name]
        if tensor.role == "statistic" or (tensor.role == "parameter" and value.ndim == 1):
            state[tensor.name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
    return state


def unfolded(loaded: Loaded, state: dict[str, np.ndarray]) -> bytes:
    """Return the inference network with BatchNormalization nodes and the values of `state` inside."""
    network = lower(loaded, "test", None, objectives=False)
    output_entries(network)
    model = ir.to_proto(ir.Model(clean(network.net.g.graph), ir_version=IR_VERSION))
    read = {name for node in model.graph.node for name in node.input}
    for value in list(model.graph.input):
        if value.name in state or value.name not in read:
            model.graph.input.remove(value)
        if value.name in state and value.name in read:
            model.graph.initializer.append(onnx.numpy_helper.from_array(state[value.name], value.name))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def session_call(content: bytes, image: np.ndarray, threads: int, optimized: bool = True) -> Call:
    """Return a call of a model on an image batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    return lambda: session.run([output], {"image": image})[0]


def torch_call(name: str, loaded: Loaded, artifact: Artifact, state: dict[str, np.ndarray], image: np.ndarray) -> Call:
    """Return a call of the PyTorch network, in evaluation mode, with the values of `state`."""
    model = networks.rectify_in_place(NETWORKS[name]()).eval()
    values = {role: [state[t.name] for t in artifact.state if t.role == role] for role in ("parameter", "statistic")}
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    with torch.no_grad():
        for tensors, role in ((list(model.parameters()), "parameter"), (buffers, "statistic")):
            for tensor, value in zip(tensors, values[role], strict=True):
                tensor.copy_(torch.from_numpy(value))
    x, data = torch.from_numpy(image), loaded.spec.data
    mean = torch.tensor(data.mean, dtype=torch.float32).reshape(-1, 1, 1)
    scale = float(data.scale)

    def call() -> np.ndarray:
        with torch.inference_mode():
            y: np.ndarray = model((x - mean) * scale).numpy()
        return y

    return call


def measure(name: str, batch: int, rounds: int, seconds: float, threads: int) -> Result:
    """Time all ways of one network at one batch size."""
    torch.set_num_threads(threads)
    loaded, host = load_spec(ZOO / f"{name}.yaml", ()), Host("cpu", threads)
    with tempfile.TemporaryDirectory() as folder:
        write(build(loaded), Path(folder) / "artifact")
        artifact = Artifact.load(Path(folder) / "artifact")
        state = trained_like(artifact)
        start = time.perf_counter()
        baked = load_infer(artifact, host)
        bake(baked, artifact, fold(artifact, state, host))
        content = baked.SerializeToString()
        exported = (time.perf_counter() - start) * 1e3
    shape = loaded.spec.inputs["image"].shape
    assert shape is not None
    highest = 16 if loaded.spec.data.source == "digits" else 255  # of a raw value
    image = np.random.default_rng(1).uniform(0, highest, (batch, *shape)).astype(np.float32)
    raw = unfolded(loaded, state)
    calls = {
        "exported": session_call(content, image, threads),
        "unfolded": session_call(raw, image, threads),
        "as written": session_call(raw, image, threads, optimized=False),
        "eager": torch_call(name, loaded, artifact, state, image),
    }
    results = {way: call() for way, call in calls.items()}
    largest = float(np.abs(results["eager"]).max())
    difference = max(float(np.abs(result - results["eager"]).max()) for result in results.values()) / largest
    return Result(name, batch, _rounds(calls, rounds, seconds), exported, difference)


def _rounds(calls: dict[str, Call], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Let the calls take turns in blocks of so many seconds; return the median of each counted block."""
    found: dict[str, list[float]] = {way: [] for way in calls}
    for number in range(rounds + 1):
        ways = list(calls)
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            calls[way]()  # while the threads of the way before may still be spinning
            block: list[float] = []
            begun = time.perf_counter()
            while not block or time.perf_counter() - begun < seconds:
                start = time.perf_counter()
                calls[way]()
                block.append((time.perf_counter() - start) * 1e3)
            if number:  # the first round warms up
                found[way].append(statistics.median(block))
    return found


def table(results: list[Result]) -> str:
    """Return the results as Markdown."""
    ways = list(results[0].milliseconds)
    head = ["Network", "batch", *(f"{way} ms" for way in ways), *(f"exported / {way}" for way in ways[1:])]
    lines = [[*head, "export ms"], ["---", *["---:"] * len(head)]]
    for result in results:
        line = [result.network, str(result.batch)]
        line += [f"{statistics.median(rounds):.2f}" for rounds in result.milliseconds.values()]
        for way in ways[1:]:
            pairs = zip(result.milliseconds["exported"], result.milliseconds[way], strict=True)
            line.append(f"{statistics.median(one / other for one, other in pairs):.2f}")
        lines.append([*line, f"{result.export_milliseconds:.0f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time an exported model beside what else could be deployed.")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (default 9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a block of calls (default 0.3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every way (default 2)")
    parser.add_argument("--json", type=Path, help="also write everything measured here")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.threads) < 1:
        parser.error("--rounds and --threads should be at least 1")
    results = [
        measure(name, batch, arguments.rounds, arguments.seconds, arguments.threads)
        for name in NETWORKS
        for batch in BATCHES
    ]
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}; {arguments.threads} threads\n")
    print(table(results))
    if arguments.json:
        record = {"machine": description(), "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    wrong = [result for result in results if not result.difference <= BOUND]
    for result in wrong:
        print(f"{result.network}: scores differ by {result.difference:.1e} of the largest", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
