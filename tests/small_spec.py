"""A small spec that tests edit, and what a command left in its folder."""

from pathlib import Path

SPEC = """\
netc: 1
name: small
inputs:
  image: {shape: [1, 8, 8]}
  label: {classes: 10}
data:
  source: digits
  batch_size: 20
layers:
  - {name: conv, type: Convolution, num_output: 4, kernel_size: 3}
  - {name: pool, type: Pooling, pool: max, kernel_size: 2, stride: 2}
  - {name: ip, type: InnerProduct, num_output: 10}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [ip, label]}
solver:
  type: SGD
  base_lr: 0.01
  max_epochs: 1
"""
# Whole lines of it, for rows that replace one.
LABEL = "  label: {classes: 10}\n"
CONV = "{name: conv, type: Convolution, num_output: 4, kernel_size: 3}"
POOL = "{name: pool, type: Pooling, pool: max, kernel_size: 2, stride: 2}"
LOSS = "{name: loss, type: SoftmaxWithLoss}"
ACCURACY = "  - {name: accuracy, type: Accuracy, bottom: [ip, label]}\n"


def edited(*edits: tuple[str, str]) -> str:
    text = SPEC
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} should occur once"
        text = text.replace(old, new)
    return text


def files(folder: Path = Path()) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
