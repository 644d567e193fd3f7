"""The fold of random networks: normalizations, scales and biases anywhere between layers of every kind."""

from typing import Any

import numpy as np
import onnx_ir as ir

from netc.rewrite.fold_plan import Plan
from tests.folding import IMAGE, Layers, bn, check, conv, deconv, inference, layer, reasons

SEEDS = range(40)
KINDS = ["bn", "bn", "bn", "conv", "conv", "deconv", "deconv", "relu", "relu"]
KINDS += ["scale", "bias", "concat", "sum", "pool", "shared", "branches"]
# Parts of the reasons, all of which are given somewhere.
REASONS = {
    "cannot absorb it",
    "is also read by",
    "(joined by",
    "is an input of the model",
    "is an output of the model",
    "pads its input with zeros",
    "adds fewer elements",
}
SIDES = ("before", "after", "before groups", "after groups")
PLACES = {(kind, side) for kind in ("Conv", "ConvTranspose") for side in SIDES}
PLACES |= {("Gemm", "before"), ("a join", "after"), ("two in a row", "anywhere")}


class Draw:
    """A random network; tops are known by their shapes, so that joins and sums find others that fit."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: Layers = []
        self.shapes: dict[str, tuple[int, ...]] = {"image": IMAGE}
        for _ in range(10):
            last = list(self.shapes)[-1]
            # Now and then an earlier top, which then has two readers.
            self.add(self.choose(KINDS), self.choose(list(self.shapes)) if self.rng.random() < 0.2 else last)
        self.add("bn", list(self.shapes)[-1])

    def choose(self, *of: Any) -> Any:
        values = of[0] if len(of) == 1 else of
        return values[self.rng.integers(len(values))]

    def add(self, kind: str, bottom: str) -> str:
        """Add layers of a kind that read `bottom`, if they fit, and return the last top."""
        name, (c, *size) = f"l{len(self.layers)}", self.shapes[bottom]
        match kind:
            case "conv" | "deconv":
                return self.kernels(kind, name, bottom)
            case "branches":
                tops = [self.place(conv(f"{name}{branch}", bottom=bottom), (4, *size)) for branch in "ab"]
                return self.place(layer(name, "Concat", bottom=tops), (8, *size))
            case "shared":
                fields = {"num_output": c, "kernel_size": 1, "pad": 0, "bias_term": False}
                return self.place(conv(name, bottom=bottom, param=[{"name": f"w{c}"}], **fields), (c, *size))
            case "concat" | "sum":
                fits = [top for top, (d, *own) in self.shapes.items() if own == size and (kind != "sum" or c == d)]
                other = self.choose(fits)
                channels = c if kind == "sum" else c + self.shapes[other][0]
                join = layer(name, "Eltwise" if kind == "sum" else "Concat", bottom=[bottom, other])
                return self.place(join, (channels, *size)) if channels <= 12 else bottom
            case "pool":
                fields = {"pool": self.choose("max", "average"), "kernel_size": 3, "pad": 1}
                return self.place(layer(name, "Pooling", bottom=bottom, **fields), (c, *size))
            case "bn":
                return self.place(bn(name, bottom=bottom, affine=self.choose(True, False)), (c, *size))
            case "scale":
                return self.place(layer(name, "Scale", bottom=bottom, bias_term=self.choose(True, False)), (c, *size))
            case _:
                return self.place(layer(name, "Bias" if kind == "bias" else "ReLU", bottom=bottom), (c, *size))

    def kernels(self, kind: str, name: str, bottom: str) -> str:
        """Add a convolution or its transpose, unless planes would be too small or too large."""
        k, s, d, channels = self.choose(1, 3), self.choose(1, 1, 1, 2), self.choose(1, 2), self.choose(2, 4, 6)
        reach, size = d * (k - 1), self.shapes[bottom][1:]
        pad = self.choose(0, reach // 2, reach if kind == "deconv" else 0)
        if kind == "conv":
            size = tuple((n + 2 * pad - reach - 1) // s + 1 for n in size)
        else:
            size = tuple(s * (n - 1) + reach + 1 - 2 * pad for n in size)
        if min(size) < 2 or max(size) > 12:
            return bottom
        fields = {"kernel_size": k, "stride": s, "dilation": d, "pad": pad, "num_output": channels, "bottom": bottom}
        fields |= {"group": self.choose(1, 2), "bias_term": self.choose(True, False)}
        return self.place((conv if kind == "conv" else deconv)(name, **fields), (channels, *size))

    def place(self, added: dict[str, Any], shape: tuple[int, ...]) -> str:
        """Add a layer with its fields as plain data, and return its name."""
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in added.items()}
        self.layers.append(plain)
        self.shapes[added["name"]] = shape
        return str(added["name"])


def places(plan: Plan) -> set[tuple[str, str]]:
    """Return where a plan folds something: into which operator, and from which side."""
    found: set[tuple[str, str]] = set()
    for node, taken in plan.taken.items():
        group = node.attributes.get("group", ir.AttrInt64("group", 1)).as_int()
        for side, takes in (("before", taken.before is not None), ("after", bool(taken.after))):
            found |= {(node.op_type, side + (" groups" if group > 1 else ""))} if takes else set()
        found |= {("a join", "after")} if any(part.start for part in taken.after) else set()
    for chain in plan.chains.values():
        several = [node.op_type for node in chain.steps].count("BatchNormalization") > 1
        found |= {("two in a row", "anywhere")} if several else set()
    return found


def test_random_networks() -> None:
    """Each computes what it computed; together they have every kind of fold and of reason."""
    folded: set[tuple[str, str]] = set()
    said: set[str] = set()
    for seed in SEEDS:
        layers = Draw(seed).layers
        infer = check(layers, seed).infer.graph
        said |= {part for reason in reasons(infer).values() for part in REASONS if part in reason}
        network = inference(layers)
        folded |= places(Plan(network.net.g.graph, network.net.state))
    assert folded >= PLACES
    assert said == REASONS
