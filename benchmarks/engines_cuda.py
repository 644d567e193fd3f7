"""What a training step is timed on with an NVIDIA GPU: netc and PyTorch, launched one by one and as CUDA graphs."""

from collections.abc import Callable
from typing import ClassVar, Literal

import onnxruntime
import torch

from benchmarks.engines import Eager, Engine
from benchmarks.workloads import Prepared
from netc_runtime.session import Cuda, Host
from netc_runtime.step import TrainingStep

WARM_UP = 3  # runs before a capture, as PyTorch's documentation of CUDA graphs has it


class NetcCuda(Engine):
    """netc on ONNX Runtime's CUDA provider, driven as `netc train` does: a step is the launch of a CUDA graph."""

    title = "netc, CUDA graph"
    device = "cuda"
    graph: ClassVar[bool] = True
    convolution: ClassVar[Literal["heuristic", "exhaustive"]] = "heuristic"

    def __init__(self, prepared: Prepared, threads: int) -> None:
        artifact = prepared.artifact("cuda")
        cuda = Cuda(tf32=prepared.tf32, graph=self.graph, convolution=self.convolution)
        self._step = TrainingStep(artifact, artifact.initial_state(), Host("cuda", threads, cuda))
        self._batches = prepared.batches

    def step(self, index: int) -> float:
        return self._step.run(self._batches[index])["total"]

    @classmethod
    def missing(cls) -> str | None:
        return None if torch.cuda.is_available() else "NVIDIA GPU"

    @classmethod
    def version(cls) -> str:
        return f"onnxruntime {onnxruntime.__version__}"


class NetcCudaKernels(NetcCuda):
    """The same, kernel after kernel."""

    title = "netc, no CUDA graph"
    graph = False


class NetcCudaExhaustive(NetcCuda):
    """The CUDA graph of the convolutions that a search by time found."""

    title = "netc, CUDA graph, exhaustive search"
    convolution = "exhaustive"


class EagerCuda(Eager):
    """PyTorch as it is; batches come from pinned memory, without waiting for them."""

    title = "PyTorch eager"
    device = "cuda"

    def __init__(self, prepared: Prepared, threads: int) -> None:
        self._tf32 = prepared.tf32
        self._set_precision()
        super().__init__(prepared, threads)
        inner = self._forward

        def forward(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return inner(image.to("cuda", non_blocking=True), label.to("cuda", non_blocking=True))

        self._forward = forward

    def _loaded(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.pin_memory() for tensor in tensors)

    def _set_precision(self) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self._tf32

    def step(self, index: int) -> float:
        self._set_precision()
        return super().step(index)

    @classmethod
    def missing(cls) -> str | None:
        return NetcCuda.missing()


class CompiledCuda(EagerCuda):
    """PyTorch with torch.compile."""

    title = "PyTorch compiled"

    def _prepared(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return torch.compile(forward, dynamic=False)


class GraphedCuda(EagerCuda):
    """PyTorch's whole step, the optimizer in it, captured as a CUDA graph."""

    title = "PyTorch eager, CUDA graph"

    def __init__(self, prepared: Prepared, threads: int) -> None:
        super().__init__(prepared, threads)
        self._inputs = [tensor.cuda() for tensor in self._batches[0]]
        state = {name: value.clone() for name, value in self._model.state_dict().items()}
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._whole()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph):
            self._loss = self._whole()
        # Warming up has trained: back to where all engines start.
        self._model.load_state_dict(state)
        for moments in self._optimizer.state.values():
            for value in moments.values():
                value.zero_()

    def _whole(self) -> torch.Tensor:
        loss = self._forward(*self._inputs)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        return loss

    def step(self, index: int) -> float:
        for target, source in zip(self._inputs, self._batches[index], strict=True):
            target.copy_(source, non_blocking=True)
        self._graph.replay()
        return self._loss.item()


class GraphedCompiledCuda(GraphedCuda):
    """The same of what torch.compile makes."""

    title = "PyTorch compiled, CUDA graph"
    _prepared = CompiledCuda._prepared


CUDA_ENGINES: dict[str, type[Engine]] = {
    "cuda": NetcCuda,
    "cuda-kernels": NetcCudaKernels,
    "cuda-exhaustive": NetcCudaExhaustive,
    "cuda-eager": EagerCuda,
    "cuda-compiled": CompiledCuda,
    "cuda-eager-graph": GraphedCuda,
    "cuda-compiled-graph": GraphedCompiledCuda,
}
