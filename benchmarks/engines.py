"""What a training step is timed on: every engine is one class, and one line of ENGINES."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn

from benchmarks.networks import rectify_in_place
from benchmarks.workloads import Prepared
from netc.solver.adaptive import Adam
from netc.solver.rules import SGD, Nesterov
from netc_runtime.session import Host
from netc_runtime.step import TrainingStep


class Engine(ABC):
    """A workload that trains from the artifact's first state.

    Attributes:
        title: what the table calls the engine.
        device: what runs it.
    """

    title: ClassVar[str]
    device: ClassVar[Literal["cpu", "cuda"]] = "cpu"

    @abstractmethod
    def __init__(self, prepared: Prepared, threads: int) -> None:
        """Build the step; what is compiled is compiled at the first call of `step` at the latest."""

    @abstractmethod
    def step(self, index: int) -> float:
        """Do one update on the batch of this number; return the objective before it."""

    @classmethod
    def missing(cls) -> str | None:
        """Return what this machine lacks for this engine, None if it can run."""
        return None

    @classmethod
    def load(cls) -> None:
        """Let the libraries load what they load for the first step of any network: PyTorch's here."""
        x, w = (torch.zeros(1, 1, 4, 4, requires_grad=True) for _ in range(2))
        torch.autograd.backward(torch.nn.functional.conv2d(x, w).sum())

    @classmethod
    def version(cls) -> str:
        """Return the name and the version of what runs the step."""
        return f"torch {torch.__version__}"


class Netc(Engine):
    """netc's step, compiled for an engine and driven there as `netc train` does."""

    target: ClassVar[Literal["cpu", "openvino"]]

    def __init__(self, prepared: Prepared, threads: int) -> None:
        artifact = prepared.artifact(self.target)
        self._step = TrainingStep(artifact, artifact.initial_state(), Host(self.target, threads))
        self._batches = prepared.batches

    def step(self, index: int) -> float:
        return self._step.run(self._batches[index])["total"]


def _smallest() -> bytes:
    """Return a program of one node."""
    types = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", types[:1], types[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


class Cpu(Netc):
    """netc on ONNX Runtime's CPU provider."""

    title = "netc, ONNX Runtime CPU"
    target = "cpu"

    @classmethod
    def load(cls) -> None:
        onnxruntime.InferenceSession(_smallest(), providers=["CPUExecutionProvider"]).run(None, {"x": np.zeros(1, "f")})

    @classmethod
    def version(cls) -> str:
        return f"onnxruntime {onnxruntime.__version__}"


class OpenVINO(Netc):
    """netc on OpenVINO's CPU plugin."""

    title = "netc, OpenVINO"
    target = "openvino"

    @classmethod
    def load(cls) -> None:
        import openvino

        core = openvino.Core()
        core.compile_model(core.read_model(_smallest()), "CPU")(np.zeros(1, "f"))

    @classmethod
    def missing(cls) -> str | None:
        return None if find_spec("openvino") else "openvino"

    @classmethod
    def version(cls) -> str:
        return f"openvino {metadata.version('openvino')}"


class Eager(Engine):
    """PyTorch as it is: modules, autograd, and the fused optimizer."""

    title = "PyTorch eager"

    def __init__(self, prepared: Prepared, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = torch_model(prepared, self.device).to(self.device)
        self._optimizer = torch_optimizer(prepared, self._model)
        # What a loader would prepare: tensors, and labels of the type that the loss wants.
        self._batches = [
            self._loaded(torch.from_numpy(batch["image"]), torch.from_numpy(batch["label"]).long())
            for batch in prepared.batches
        ]
        # Mean and scale are a part of netc's step, so of this one as well.
        data, objective, model = prepared.spec.data, prepared.workload.objective, self._model
        scale = float(data.scale)
        mean = None
        if np.any(data.mean):
            mean = torch.tensor(data.mean, dtype=torch.float32, device=self.device).reshape(-1, 1, 1)

        def forward(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            x = image if mean is None else image - mean
            return objective(model(x * scale), label)

        self._forward = self._prepared(forward)

    def _loaded(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tensors of a batch as a loader hands them over."""
        return tensors

    def _prepared(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return forward

    def step(self, index: int) -> float:
        loss = self._forward(*self._batches[index])
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        return loss.item()


class Compiled(Eager):
    """PyTorch with torch.compile: forward pass, loss and backward pass compiled, and the fused optimizer."""

    title = "PyTorch compiled"

    def _prepared(self, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return torch.compile(forward, dynamic=False)

    @classmethod
    def missing(cls) -> str | None:
        return None if any(map(shutil.which, ("g++", "clang++"))) else "a C++ compiler"


ENGINES: dict[str, type[Engine]] = {"cpu": Cpu, "openvino": OpenVINO, "eager": Eager, "compiled": Compiled}


def torch_model(prepared: Prepared, target: Literal["cpu", "cuda"]) -> nn.Module:
    """Return the workload's PyTorch network, with the first parameters of the artifact for `target`."""
    artifact = prepared.artifact(target)
    state = artifact.initial_state()
    model = rectify_in_place(prepared.workload.module())
    if not prepared.dropout:
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    ours = [state[tensor.name] for tensor in artifact.state if tensor.role == "parameter"]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), ours, strict=True):
            assert parameter.shape == value.shape, "the module's layers are in another order than the spec's"
            parameter.copy_(torch.from_numpy(value))
    return model


def torch_optimizer(prepared: Prepared, model: nn.Module) -> torch.optim.Optimizer:
    """Return the spec's solver as PyTorch's own, one kernel for all of an update."""
    solver = prepared.spec.solver
    options: dict[str, Any] = {"lr": solver.base_lr, "weight_decay": solver.weight_decay, "fused": True}
    captured = {"capturable": True} if next(model.parameters()).is_cuda else {}
    match solver:
        case SGD() | Nesterov():
            nesterov = isinstance(solver, Nesterov)
            return torch.optim.SGD(model.parameters(), momentum=solver.momentum, nesterov=nesterov, **options)
        case Adam():
            betas = solver.beta1, solver.beta2
            return torch.optim.Adam(model.parameters(), betas=betas, eps=solver.eps, **options, **captured)
    raise NotImplementedError(f"no PyTorch optimizer for {solver.type}")
