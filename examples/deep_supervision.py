"""The vanishing gradient, and what companion objectives do about it (Lee, Xie, Gallagher, Zhang & Tu, 2015).

lenet_sigmoid is trained twice from the same weights on the same batches: as it is, and with a companion objective, a
side, behind each of its two pooling layers. `run.monitor_every` has both runs write down the mean absolute gradient of
every layer. On MNIST that of the first layer is 12 times larger with the sides in the first step, and 60 to 80 times
around step 200; the plain network begins to learn only after 400 steps. After 500 steps 90 % of the test digits are
right with the sides, and 70 % without.

    python examples/deep_supervision.py                     # on the digits that ship with netc
    python examples/deep_supervision.py DATA/mnist          # on MNIST, a folder with its four IDX files
"""

import argparse
import csv
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SIDE = (
    "{{loss_weight: 0.3, layers: [{{name: scores{0}, type: InnerProduct, num_output: 10}}, "
    "{{name: loss{0}, type: SoftmaxWithLoss}}]}}"
)
SIDES = [f"layers.pool{number}.side={SIDE.format(number)}" for number in (1, 2)]
FIRST = "conv1"
LAST = 5  # monitored steps whose mean stands for the end of a run
# Layer -> step -> mean absolute gradient of the objective with respect to the layer's top, in the order of the layers.
Gradients = dict[str, dict[int, float]]


def train(run: Path, settings: list[str]) -> Gradients:
    """Train lenet_sigmoid by the command line; return what monitor.csv says of the gradients."""
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "netc.cli", "train", "lenet_sigmoid", "--run", str(run), "--threads", "1"]
    if code := subprocess.run([*command, *options], check=False).returncode:
        sys.exit(code)  # netc has said why
    found: Gradients = {}
    with (run / "monitor.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["quantity"] == "mean_abs_gradient":
                found.setdefault(row["layer"], {})[int(row["step"])] = float(row["value"])
    return found


def at_end(gradients: Gradients, layer: str) -> float:
    """Return the mean of a layer over the last monitored steps."""
    values = list(gradients[layer].values())[-LAST:]
    return sum(values) / len(values)


def show(plain: Gradients, supervised: Gradients) -> None:
    """Print both runs side by side: the first layer over the steps, and every layer at the end."""
    print(f"\nmean absolute gradient of {FIRST}\n{'step':>6}  without sides  with sides   ratio")
    shown = list(plain[FIRST])
    for step in shown[:: max(len(shown) // 10, 1)]:
        one, other = plain[FIRST][step], supervised[FIRST][step]
        print(f"{step:>6}  {one:13.3e}  {other:10.3e}  {other / one:6.2f}")
    print(f"\nevery layer at the end\n{'layer':<10}  without sides  with sides   ratio")
    for layer in plain:
        one, other = at_end(plain, layer), at_end(supervised, layer)
        print(f"{layer:<10}  {one:13.3e}  {other:10.3e}  {other / one:6.2f}")


def plot(plain: Gradients, supervised: Gradients, path: Path) -> None:
    """Draw both tables, on a logarithmic scale, into a PNG file."""
    if find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("Agg")  # which needs no display
    from matplotlib import pyplot

    figure, (over_steps, over_layers) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, gradients in (("without sides", plain), ("with sides", supervised)):
        over_steps.semilogy(list(gradients[FIRST]), list(gradients[FIRST].values()), label=name)
        over_layers.semilogy(list(plain), [at_end(gradients, layer) for layer in plain], "o-", label=name)
    over_steps.set(xlabel="step", ylabel="mean absolute gradient", title=f"the first layer, {FIRST}")
    over_layers.set(title="every layer at the end")
    over_layers.tick_params("x", rotation=45)
    over_steps.legend()
    figure.savefig(path, dpi=150)
    print(f"drawn to {path}")


def main() -> None:
    """Train twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of MNIST; without it the digits of netc")
    parser.add_argument("--runs", type=Path, default=Path("runs/deep_supervision"), help="folder for runs and figure")
    parser.add_argument("--steps", type=int, default=500, help="updates of each run")
    parser.add_argument("--every", type=int, default=20, help="steps between two looks at the gradients")
    given = parser.parse_args()

    if find_spec("matplotlib") is None:
        print('without matplotlib there will be no picture: pip install -e ".[plot]"', file=sys.stderr)
    settings = ["solver.max_epochs=null", f"solver.max_iter={given.steps}", f"run.monitor_every={given.every}"]
    if given.data is not None:
        settings += ["data.source=mnist", f"data.path={given.data}", "data.scale=0.00390625"]
    plain = train(given.runs / "plain", settings)
    supervised = train(given.runs / "supervised", [*settings, *SIDES])
    show(plain, supervised)
    plot(plain, supervised, given.runs / "gradients.png")


if __name__ == "__main__":
    main()
