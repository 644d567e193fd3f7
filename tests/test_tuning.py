"""Lowerings as choices: what is measured decides, whatever is chosen computes the same, and a run keeps its choice."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from netc.build import build
from netc.cli import app
from netc.rewrite.lowerings import PLAIN, Lowerings
from netc.rewrite.passes import Target, alternatives
from netc.tuning import choose
from tests.oracle import error, ort_runner
from tests.zoo import batches, loaded

runner = CliRunner()
PLACES = {"Conv(1x2) pads=1": {"a", "b"}, "Conv(3x4)": {"c"}, "Add(5)": {"c"}}


def test_the_least_time_of_all_places_of_a_signature_decides() -> None:
    usual = {"a": 4.0, "b": 6.0, "c": 1.0}
    times = {
        ("Conv", "one.rule"): {"a": 4.5, "b": 4.0, "c": 0.95},  # less for a and b together, hardly less for c
        ("Conv", PLAIN): {"a": 1.0, "b": 8.9, "c": 3.0},
        ("Add", PLAIN): {"a": 0.1, "b": 0.1, "c": 0.5},
    }
    found = {choice.signature: choice for choice in choose(usual, times, PLACES)}
    assert {key: choice.rule for key, choice in found.items()} == {
        "Conv(1x2) pads=1": "one.rule",
        "Conv(3x4)": None,
        "Add(5)": PLAIN,
    }
    both = found["Conv(1x2) pads=1"]
    assert (both.layers, both.usual_ms, both.chosen_ms) == (2, 10.0, 8.5)


def gradients(
    lowerings: Lowerings, name: str = "resnet_tiny", target: Target = "cpu"
) -> tuple[dict[str, np.ndarray], ir.Graph]:
    # The grouped weight gradient for OpenVINO needs sixteen, with which LeNet's pooling on the CPU has the batch
    # innermost and no ScatterElements.
    size = 16 if target == "openvino" else 8
    overrides = (f"data.batch_size={size}", *(["inputs.image.shape=[3, 16, 16]"] if name == "resnet_tiny" else []))
    artifact = build(loaded(name, *overrides), target, lowerings=lowerings)
    (batch,) = batches(name, 1, 3, *overrides)
    return ort_runner(artifact.models()["train"])({**artifact.initial_state(), **batch}), artifact.programs[
        "train"
    ].graph


@cache
def usual_gradients(name: str, target: Target) -> tuple[dict[str, np.ndarray], ir.Graph]:
    return gradients(Lowerings(), name, target)


# Those that resnet_tiny has no place for: it pools with overlapping windows, and never by 2x2.
NETWORKS = {"ScatterElements": "lenet", "Reshape": "lenet_sigmoid"}


@pytest.mark.parametrize(
    ("target", "alternative"),
    [(target, alternative) for target in ("cpu", "openvino") for alternative in alternatives(target)],
    ids=lambda x: x if isinstance(x, str) else ":".join(x),
)
def test_every_alternative_computes_the_same(target: Target, alternative: tuple[str, str]) -> None:
    """1e-5 of each tensor's largest element: the same sums in another order, through ten layers."""
    network = NETWORKS.get(alternative[0], "resnet_tiny")
    usual, before = usual_gradients(network, target)
    other, after = gradients(Lowerings(everywhere=alternative), network, target)
    assert [n.op_type for n in before] != [n.op_type for n in after]
    for name, value in usual.items():
        assert error(other[name], value) < 1e-5, name


def test_a_choice_holds_for_its_signature_alone() -> None:
    usual = Lowerings()
    gradients(usual)
    flipped = [place for place in usual.applied if place.startswith("ConvTranspose(")]
    assert len(flipped) > 1
    chosen = Lowerings({flipped[0]: PLAIN})
    gradients(chosen)
    assert set(chosen.applied) == set(usual.applied) - {flipped[0]}


def test_tune_writes_its_choices_and_a_run_keeps_them(tmp_path: Path) -> None:
    small = ["--set", "data.batch_size=32", "--threads", "1"]
    result = runner.invoke(app, ["tune", "lenet", "-o", str(tmp_path / "tuned"), "--steps", "1", "--json", *small])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    tuning = json.loads((tmp_path / "tuned" / "manifest.json").read_text()).get("tuning")
    assert tuning == said["tuning"]
    if tuning is not None:  # the clock found something that pays
        assert tuning["lowerings"] == {c["signature"]: c["rule"] for c in said["choices"] if c["rule"] is not None}
    # A tuned artifact, changed by hand so that the choice does not hang on a clock.
    file = tmp_path / "tuned" / "manifest.json"
    manifest = json.loads(file.read_text())
    place = said["choices"][0]["signature"]
    manifest["tuning"] = {"engine": "any", "threads": 1, "lowerings": {place: PLAIN}}
    file.write_text(json.dumps(manifest))
    again = runner.invoke(app, ["compile", str(tmp_path / "tuned"), "-o", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    kept = json.loads((tmp_path / "again" / "manifest.json").read_text())["tuning"]["lowerings"]
    assert kept == {place: PLAIN}
    manifest["tuning"]["lowerings"] = {place: "no.such_rule"}
    file.write_text(json.dumps(manifest))
    refused = runner.invoke(app, ["compile", str(tmp_path / "tuned"), "-o", str(tmp_path / "again")])
    assert "has no lowering no.such_rule; tune the spec again" in str(refused.exception)
    manifest["tuning"]["lowerings"] = {place: PLAIN}
    file.write_text(json.dumps(manifest))
    other = runner.invoke(app, ["compile", str(tmp_path / "tuned"), "-o", str(tmp_path / "cuda"), "--target", "cuda"])
    assert other.exit_code == 0, other.output
    assert "tuning" not in json.loads((tmp_path / "cuda" / "manifest.json").read_text())
