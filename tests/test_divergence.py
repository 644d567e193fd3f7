"""Planted divergence: the sentence names the step and the layer, or the sample, that it began with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.build import build
from netc.emit import write
from netc.spec.load import load
from netc.spec.text import parse_tree
from netc_runtime.data.order import permutation
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.trainer import TrainOptions, train
from tests.driver.conftest import CPU, Recorder

BATCH, SAMPLES = 4, 24
SPEC = """\
netc: 1
name: planted
inputs:
  image: {shape: [1, 4, 4]}
  label: {classes: 3}
data: {source: npy, path: DATA, batch_size: 4}
layers:
  - {name: conv, type: Convolution, num_output: 3, kernel_size: 3, bias_term: false}
  - {name: abs, type: AbsVal}
LAYERS
  - {name: ip, type: InnerProduct, num_output: 3}
  - {name: loss, type: SoftmaxWithLoss}
solver: {type: SGD, base_lr: 0.01, momentum: 0.9, max_epochs: 4}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Positive images, so that only what a test plants is special."""
    random = np.random.default_rng(2)
    for part in ("train", "test"):
        (tmp_path / "data" / part).mkdir(parents=True)
        np.save(tmp_path / "data" / part / "image.npy", random.uniform(0.1, 1, (SAMPLES, 1, 4, 4)).astype(np.float32))
        np.save(tmp_path / "data" / part / "label.npy", (np.arange(SAMPLES) % 3).astype(np.uint8))
    return tmp_path / "data"


def diverge(data: Path, layers: str = "", on_step: Any = None, **changes: str) -> str:
    text = SPEC.replace("DATA", str(data)).replace("LAYERS\n", layers)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    write(build(load(parse_tree(text, "planted.yaml"))), data.parent / "artifact")
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(data.parent / "run", data.parent / "artifact", CPU), Recorder(on_step))
    assert caught.value.exit_code == ExitCode.DIVERGED
    return str(caught.value)


def poison(data: Path, index: int, value: float) -> None:
    """Change an image of the training split in place: the driver maps the file, and has checked it before."""
    images = np.load(data / "train" / "image.npy", mmap_mode="r+")
    images[index] = value
    images.flush()


def place(epoch: int, batch: int) -> list[int]:
    """The samples of a batch."""
    found: list[int] = permutation(0, epoch, SAMPLES)[batch * BATCH : (batch + 1) * BATCH].tolist()
    return found


def test_a_rate_of_a_million(data: Path) -> None:
    said = diverge(data, **{"base_lr: 0.01": "base_lr: 1000000.0"})
    assert "the first non-finite values are in the forward pass of ip (ip/forward/" in said
    assert said.endswith("start a new run with a lower solver.base_lr (now 1000000.0)")


def test_the_logarithm_of_zero_in_one_layer(data: Path) -> None:
    said = diverge(data, "  - {name: zero, type: Power, scale: 0.0}\n  - {name: log, type: Log}\n")
    assert said.startswith(
        "training diverged at step 1: the first non-finite values are in the forward pass of log (log/forward/Log"
    )


def test_the_logarithm_of_zero_in_one_sample(data: Path) -> None:
    """A black image, whose activations are all 0."""
    sample = place(0, 0)[2]
    poison(data, sample, 0.0)
    said = diverge(data, "  - {name: log, type: Log}\n")
    assert said.startswith("training diverged at step 1: the first non-finite values are in the forward pass of log (")
    assert f"), of sample {sample} of the train split alone; " in said


def test_a_gradient_that_is_infinite_where_the_loss_is_finite(data: Path) -> None:
    """The square root of 0 is 0, its slope infinite: the step after it is the first with a bad loss."""
    sample = place(0, 3)[1]
    poison(data, sample, 0.0)
    recorder: list[int] = []
    layers = "  - {name: root, type: Power, power: 0.5}\n"
    said = diverge(data, layers, lambda event: recorder.append(event.step))
    assert recorder == [1, 2, 3, 4]  # the fourth loss is finite
    assert said.startswith(
        "training diverged at step 4: the first non-finite values are in the gradient of root (root/"
    )
    assert "; conv.weight is not finite" in said


def test_a_gradient_that_is_infinite_after_a_checkpoint(data: Path) -> None:
    """The steps since the checkpoint are repeated, not those before it."""
    sample = place(1, 2)[0]

    def planted(event: Any) -> None:
        if event.step == SAMPLES // BATCH:
            poison(data, sample, 0.0)

    layers = "  - {name: root, type: Power, power: 0.5}\n"
    said = diverge(data, layers, planted)
    assert said.startswith(
        "training diverged at step 9: the first non-finite values are in the gradient of root (root/"
    )
    kept = data.parent / "run" / "checkpoints" / "step_6.safetensors"
    assert f"{kept} is the last good checkpoint" in said
    assert kept.exists()


@pytest.mark.parametrize("batch", [2, 3])
def test_a_gradient_that_is_infinite_in_one_of_several_batches(data: Path, batch: int) -> None:
    """The batch whose gradients are bad is named by its update, be it the first or the last one of that."""
    poison(data, place(0, batch)[1], 0.0)
    layers = "  - {name: root, type: Power, power: 0.5}\n"
    said = diverge(data, layers, **{"momentum: 0.9": "momentum: 0.9, iter_size: 2"})
    assert said.startswith(
        "training diverged at step 2: the first non-finite values are in the gradient of root (root/"
    )
    # The first batch of an update changes no parameter.
    assert ("conv.weight/accumulated is not finite" if batch == 2 else "; conv.weight is not finite") in said
    assert ("conv.weight is not finite" in said) == (batch == 3)


@pytest.mark.parametrize("step", [3, 5])
def test_a_gradient_that_is_infinite_in_a_run_with_phases(data: Path, step: int) -> None:
    """Step 3 is the last one of its phase, so that the next one shows it; on the way to step 5 the phase changes."""
    poison(data, place(0, step - 1)[1], 0.0)
    layers = "  - {name: root, type: Power, power: 0.5}\n"
    text = "max_epochs: 4}\nphases: [{iterations: 3}, {solver: {base_lr: 0.005}}]"
    said = diverge(data, layers, **{"max_epochs: 4}": text})
    assert said.startswith(
        f"training diverged at step {step}: the first non-finite values are in the gradient of root (root/"
    )
    assert "; conv.weight is not finite" in said


def test_a_bad_value_in_one_image_is_found_before_the_first_step(data: Path) -> None:
    poison(data, 17, np.nan)
    text = SPEC.replace("DATA", str(data)).replace("LAYERS\n", "")
    write(build(load(parse_tree(text, "planted.yaml"))), data.parent / "artifact")
    with pytest.raises(DriverError) as caught:
        train(TrainOptions(data.parent / "run", data.parent / "artifact", CPU), Recorder())
    assert str(caught.value) == 'sample 17 of the train split has a value of "image" that is not finite'


def test_an_image_that_goes_bad_while_training(data: Path) -> None:
    sample = place(0, 4)[3]

    def planted(event: Any) -> None:
        if event.step == 2:
            poison(data, sample, np.nan)

    said = diverge(data, "", planted)
    assert said.startswith(
        f'training diverged at step 5: sample {sample} of the train split has a value of "image" that is not finite; '
    )


def test_an_image_beyond_float32_after_scaling(data: Path) -> None:
    sample = place(0, 1)[0]
    poison(data, sample, 1e30)
    said = diverge(data, "", **{"batch_size: 4": "batch_size: 4, scale: 1.0e20"})
    assert said.startswith("training diverged at step 2: the first non-finite values are in ")
    assert f", of sample {sample} of the train split alone; " in said
