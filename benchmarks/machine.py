"""The machine that a benchmark runs on: what it is, how fast it multiplies matrices, what a process holds."""

import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

SIZE = 1024  # of the multiplied matrices: 12 MiB in all
CUDA_SIZE = 4096  # on a GPU, which is not busy with less
REPEATS = 5
STATUS = Path("/proc/self/status")


def description() -> dict[str, str | int]:
    """Return what a reader needs to know of the machine; nothing that names it."""
    model, flags = platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        said = {key.strip(): value.strip() for key, _, value in pairs}
        model = said.get("model name", model)
        flags = " ".join(flag for flag in said.get("flags", "").split() if flag in ("avx2", "avx512f", "amx_tile"))
    return {
        "processor": model,
        "vector_units": flags,
        "cores": os.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


class MatrixPeak:
    """The rate of single-precision matrix products, the better of PyTorch's and ONNX Runtime's."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        rng = np.random.default_rng(0)
        a, b = (rng.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2))
        types = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE, SIZE]) for name in "aby"]
        graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", types[:2], types[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        x, w = torch.from_numpy(a), torch.from_numpy(b)
        self._products: tuple[Callable[[], object], ...] = (
            lambda: torch.mm(x, w),
            lambda: session.run(None, {"a": a, "b": b}),
        )

    def measure(self) -> float:
        """Return GFLOP/s, two operations a multiply-add."""
        best = float("inf")
        for product in self._products:
            product()
            for _ in range(REPEATS):
                start = time.perf_counter()
                product()
                best = min(best, time.perf_counter() - start)
        return 2e-9 * SIZE**3 / best


class CudaMatrixPeak:
    """The rate of single-precision matrix products of PyTorch on the GPU."""

    def __init__(self, tf32: bool) -> None:
        self._tf32 = tf32
        self._a, self._b = (torch.randn(CUDA_SIZE, CUDA_SIZE, device="cuda") for _ in range(2))

    def measure(self) -> float:
        """Return GFLOP/s, two operations a multiply-add."""
        torch.backends.cuda.matmul.allow_tf32 = self._tf32
        best = float("inf")
        for _ in range(REPEATS + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            torch.mm(self._a, self._b)
            torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return 2e-9 * CUDA_SIZE**3 / best


def resident() -> int:
    """Return the bytes of memory that this process holds now, and let `peak` count from here where Linux allows."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return _status("VmRSS")


def peak() -> int:
    """Return the most bytes that this process has held."""
    # Not ru_maxrss where there is better: it may count the process that started this one.
    return _status("VmHWM") if STATUS.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(key: str) -> int:
    found = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(found.split()[1]) * 1024
