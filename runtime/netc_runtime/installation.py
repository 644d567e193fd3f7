"""What this installation can really do: engines that are tried instead of believed, versions, CPUs.

Nothing here raises for what is missing: a finding says it, with the remedy.
"""

import contextlib
import importlib
import io
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from netc_runtime.cpus import allowed_cpus
from netc_runtime.engines import load_program
from netc_runtime.errors import DriverError
from netc_runtime.interface import Interface, TensorSpec
from netc_runtime.onnxruntime_program import import_onnxruntime
from netc_runtime.session import Host

_INSTALL = 'pip install "netc[cpu]" (or "netc[gpu]" for NVIDIA GPUs)'
_REMEDIES = {
    "cpu": _INSTALL,
    "cuda": 'pip install "netc[gpu]", which brings CUDA and cuDNN; the driver is the system\'s',
    "openvino": 'pip install --force-reinstall "netc[openvino]"',
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    `works` is None where nothing can work or fail, such as a version. `remedy` says what to do, "" if nothing.
    `engine` is whether training is possible with it, once it works.
    """

    name: str
    works: bool | None
    found: str
    remedy: str = ""
    engine: bool = False


def examine() -> list[Finding]:
    """Return everything about the driver's side: ONNX Runtime, its engines, OpenVINO, CPUs and extras."""
    return [
        *_runtime(),
        _openvino(),
        _cpus(),
        _extra("pillow", "PIL", "reads image files", 'pip install "netc[images]"'),
        _extra("matplotlib", "matplotlib", "draws curves", 'pip install "netc[plot]"'),
    ]


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, None if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _runtime() -> list[Finding]:
    distributions = sorted(set(metadata.packages_distributions().get("onnxruntime", ())))
    named = ", ".join(f"{name} {version_of(name)}" for name in distributions)
    try:
        ort = import_onnxruntime()
        version, providers = str(ort.__version__), [str(name) for name in ort.get_available_providers()]
    except DriverError as error:
        broken = f"{named} cannot be imported: {error.__cause__}" if named else "not installed"
        return [Finding("onnxruntime", False, broken, _reinstall(distributions) if named else _INSTALL)]
    except AttributeError:  # what is left when one of two distributions in one folder was removed
        left = "its folder is there, but not the module that belongs in it"
        return [Finding("onnxruntime", False, left, _reinstall(distributions))]
    if len(distributions) > 1:
        both = f"{version}, of {named}, which overwrite each other's files"
        whole = Finding("onnxruntime", False, both, _reinstall(distributions))
    else:
        whole = Finding("onnxruntime", True, f"{version}, of {named or 'a folder that pip does not know'}")
    engines, gpus = [_engine("cpu")], _gpus()
    if "CUDAExecutionProvider" in providers:
        engines.append(_engine("cuda"))
    else:
        missing = "this ONNX Runtime has no CUDA provider"
        remedy = f'{_uninstall(distributions)}; pip install "netc[gpu]"' if gpus else ""
        engines.append(Finding("cuda", False, missing, remedy))
    if gpus:
        engines.append(Finding("gpu", False if " fails: " in gpus else None, gpus))
    return [whole, Finding("providers", None, ", ".join(providers)), *engines]


def _uninstall(distributions: list[str]) -> str:
    return f"pip uninstall -y {' '.join(distributions) or 'onnxruntime onnxruntime-gpu'}"


def _reinstall(distributions: list[str]) -> str:
    return f"{_uninstall(distributions)}; {_INSTALL}"


def _engine(device: Literal["cpu", "cuda", "openvino"]) -> Finding:
    """Run one node with the session that training uses: ONNX Runtime lists providers that it cannot start."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # which CUDA libraries could not be loaded
            x = np.arange(4, dtype=np.float32)
            program = load_program(Path("one-node.onnx"), Host(device, threads=1), _interface(), _one_node())
            (y,) = program({"x": x}, ("y",)).values()
    except DriverError as error:
        libraries = "; ".join(said.getvalue().split("\n")).strip("; ")
        return Finding(
            device, False, f"{error}{f' ({libraries})' if libraries else ''}", _REMEDIES[device], engine=True
        )
    right = bool(np.array_equal(y, x + x))
    return Finding(device, right, "runs a program" if right else f"computes {x} + {x} = {y}", engine=True)


def _interface() -> Interface:
    return Interface((TensorSpec("x", "float32", (4,), "batch"),), (TensorSpec("y", "float32", (4,), "output"),))


def _one_node() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "one_node", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _gpus() -> str:
    """Return names and driver of NVIDIA's GPUs as the driver tells them, or how it fails; "" without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} fails: {error}"
    if result.returncode != 0:
        return f"{program} fails: {(result.stdout + result.stderr).strip()}"
    lines = [
        f"{name}, driver {driver}" for name, _, driver in (li.partition(", ") for li in result.stdout.splitlines())
    ]
    return "; ".join(lines)


def _openvino() -> Finding:
    version = version_of("openvino")
    if version is None:
        return Finding("openvino", None, "not installed", 'pip install "netc[openvino]"')
    found = _engine("openvino")
    return replace(found, found=f"{version}, {found.found}")


def _cpus() -> Finding:
    cores, allowed = os.cpu_count() or 1, allowed_cpus()
    threads = Host().thread_count
    return Finding("cpus", None, f"{cores}, of which this process may use {allowed:g}; {threads} threads by default")


def _extra(distribution: str, module: str, purpose: str, remedy: str) -> Finding:
    version = version_of(distribution)
    if version is None:
        return Finding(distribution, None, f"not installed ({purpose})", remedy)
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return Finding(distribution, False, f"{version}, but it fails: {error}", f"{remedy} --force-reinstall")
    return Finding(distribution, True, version)
