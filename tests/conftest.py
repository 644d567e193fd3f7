"""Settings of all tests."""

from pathlib import Path

import hypothesis
import pytest
import torch

from netc.spec import text
from tests.command_line import Netc, in_process
from tests.small_spec import SPEC
from tests.yaml_loaders import LOADERS

# Small tensors: one thread is faster than two on a shared machine, and sums keep their order.
torch.set_num_threads(1)
# The same examples in every run: a failure must mean a change.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes golden files."""
    parser.addoption("--update-golden", action="store_true", help="write the graphs of tests/golden anew")


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def yaml_loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read specs with each parser of pyyaml."""
    monkeypatch.setattr(text, "_LOADER", request.param)


@pytest.fixture
def netc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Netc:
    """Runs the command line in this process, inside a folder that holds spec.yaml alone."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return in_process(monkeypatch, capsys)
