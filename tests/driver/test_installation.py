"""What `netc doctor` finds, here and on machines that lack something."""

import sys
from importlib import metadata
from typing import Any

import pytest

from netc_runtime import installation
from netc_runtime.installation import Finding, examine


def found(name: str) -> Finding:
    (finding,) = (finding for finding in examine() if finding.name == name)
    return finding


def test_the_cpu_works_here() -> None:
    assert found("onnxruntime").works
    assert found("cpu") == Finding("cpu", True, "runs a program", engine=True)
    assert found("pillow").works


def test_without_onnxruntime_nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    findings = examine()
    assert not [finding for finding in findings if finding.engine and finding.works]
    (whole,) = (finding for finding in findings if finding.name == "onnxruntime")
    assert whole.works is False
    assert whole.found == "not installed"
    assert "netc[cpu]" in whole.remedy


def test_two_distributions_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": ["onnxruntime", "onnxruntime-gpu"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    finding = found("onnxruntime")
    assert finding.works is False
    assert "overwrite each other" in finding.found
    assert finding.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu; pip install ")


def test_a_provider_that_is_listed_but_does_not_start_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it may well start here")
    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    real = onnxruntime.InferenceSession

    def falls_back(content: bytes, options: Any, providers: list[Any], **others: Any) -> Any:
        return real(content, options, providers=["CPUExecutionProvider"], **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    finding = found("cuda")
    assert finding.works is False
    assert "not active" in finding.found
    assert "netc[gpu]" in finding.remedy


def test_a_missing_package_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "version_of", lambda distribution: None)
    assert found("pillow").remedy == 'pip install "netc[images]"'
    assert found("openvino").works is None
