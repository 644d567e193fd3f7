"""How the random networks declare each type of layer: random fields that fit what it reads."""

import itertools
import math
from typing import Any

from tests.random_networks import Declared, Generator, proposes

# Layers that fit any top, with values of their fields.
ANY: dict[str, dict[str, list[Any]]] = {
    **{name: {} for name in ("SELU", "HardSwish", "Mish", "Softplus", "BNLL", "Sigmoid", "TanH", "AbsVal", "Split")},
    "ReLU": {"negative_slope": [0.1, -0.2]},
    "PReLU": {"channel_shared": [True]},
    "ELU": {"alpha": [0.5, 1.3]},
    "GELU": {"approximate": ["none", "tanh"]},
    "Swish": {"beta": [0.7, 2]},
    "StochasticDepth": {"drop_ratio": [0, 0.2, 0.4]},
}


@proposes(*ANY)
def of_any(r: Generator, kind: str, bottom: str) -> Declared | None:
    return r.some(**ANY[kind])


@proposes("GaussianNoise")
def gaussian_noise(r: Generator, kind: str, bottom: str) -> Declared | None:
    return {"std": r.number(0.05, 0.5)}


@proposes("Maxout")
def maxout(r: Generator, kind: str, bottom: str) -> Declared | None:
    pieces = r.divisor(r.sample(bottom)[0])
    return {"num_pieces": pieces} if pieces > 1 else None


@proposes("Softmax", "LogSoftmax")
def softmax(r: Generator, kind: str, bottom: str) -> Declared | None:
    return {"axis": r.axis(bottom)} if r.chance(0.6) else {}


@proposes("Power", "Log")
def power(r: Generator, kind: str, bottom: str) -> Declared | None:
    fields = {"scale": r.choice([0.5, 1, -0.7])} | r.some(shift=[0.3, -0.5])
    if kind == "Power":
        fields["power"] = r.choice([0, 1, 2, 3, 0.5, -1, 1.5, -0.5])
    else:
        fields |= r.some(base=[2, 10, 0.5])
    if fields.get("power") not in (0, 1, 2, 3):  # only for what is positive
        fields["shift"] = 0.5 + math.ceil(float(-(fields["scale"] * r.tops[bottom]).min()))
    return fields


@proposes("Exp")
def exponential(r: Generator, kind: str, bottom: str) -> Declared | None:
    largest = max(1.0, float(r.tops[bottom].abs().max()))
    return {"scale": round(r.choice([1.0, -0.6]) / largest, 3)} | r.some(base=[2, 10], shift=[0.3, -0.5])


@proposes("Clip", "Threshold")
def clip(r: Generator, kind: str, bottom: str) -> Declared | None:
    if kind == "Threshold":
        return r.some(threshold=[0.1, -0.2])
    return {"min": r.number(-1.0, 0.0), "max": r.number(0.1, 1.5)}


# -- linear layers and windows ---------------------------------------------------------------------------


@proposes("Convolution", "Deconvolution")
def convolution(r: Generator, kind: str, bottom: str) -> Declared | None:
    channels, *size = r.sample(bottom)
    if not 1 <= len(size) <= 3:
        return None
    kernel, stride, pad, dilation = zip(*(_window(r, n, kind == "Deconvolution") for n in size), strict=True)
    group = r.divisor(channels) if r.chance(0.4) else 1
    fields: Declared = {"num_output": group * r.integer(1, 3), "kernel_size": r.shorten(kernel)}
    for name, values, default in (("stride", stride, 1), ("pad", pad, 0), ("dilation", dilation, 1)):
        if set(values) != {default}:
            fields[name] = r.shorten(values)
    return fields | ({"group": group} if group > 1 else {}) | r.some(bias_term=[True, False])


def _window(r: Generator, n: int, spreads: bool) -> list[int]:
    """Draw kernel, stride, pad and dilation that fit an axis of size n, for a convolution or its transpose."""
    while True:
        k, s, p, d = r.integer(1, 4), r.choice([1, 1, 2, 3]), r.choice([0, 0, 1, 2]), r.choice([1, 1, 2, 3])
        reach = d * (k - 1) + 1
        if spreads and 2 * p < s * (n - 1) + reach <= max(10, n):
            return [k, s, p, d]
        if not spreads and reach <= n + 2 * p and (n + 2 * p - reach) // s * s + reach > p:
            return [k, s, p, d]


@proposes("InnerProduct")
def inner_product(r: Generator, kind: str, bottom: str) -> Declared | None:
    fields = {"num_output": r.integer(2, 6)} | r.some(transpose=[True, False], bias_term=[True, False])
    return fields | ({"axis": r.axis(bottom)} if r.chance(0.4) else {})


@proposes("Embed")
def embed(r: Generator, kind: str, bottom: str) -> Declared | None:
    whole = [name for name, value in r.tops.items() if bool((value == value.round()).all()) and value.ndim < 4]
    source = r.choice(whole) if whole and r.chance(0.5) else r.input("tokens", [r.integer(1, 4)])
    return {"bottom": source, "num_output": r.integer(1, 4), "input_dim": r.integer(3, 7)} | r.some(bias_term=[False])


@proposes("Pooling")
def pooling(r: Generator, kind: str, bottom: str) -> Declared | None:
    size = r.sample(bottom)[1:]
    if not 1 <= len(size) <= 3:
        return None
    fields = r.some(pool=["max", "average"])
    if r.chance(0.15):
        return fields | {"global_pooling": True}
    fields |= r.some(round_mode=["floor", "ceil"])
    geometry: list[list[int]] = []
    for n in size:
        k, s = r.integer(1, min(4, n)), r.integer(1, 3)
        p = r.choice([0, 0, *range(k)])
        span = n + 2 * p - k
        windows = (span // s if fields.get("round_mode") == "floor" else math.ceil(span / s)) + 1
        if (windows - 1) * s >= n and p == 0:
            return None
        geometry.append([k, s, p])
    kernel, stride, pad = zip(*geometry, strict=True)
    fields["kernel_size"] = r.shorten(kernel)
    for name, values, default in (("stride", stride, 1), ("pad", pad, 0)):
        if set(values) != {default}:
            fields[name] = r.shorten(values)
    return fields


@proposes("SPP")
def spatial_pyramid(r: Generator, kind: str, bottom: str) -> Declared | None:
    size, height = r.sample(bottom)[1:], r.integer(1, 3)
    if not 1 <= len(size) <= 3:
        return None
    for n, bins in itertools.product(size, (2**level for level in range(height))):
        k = math.ceil(n / bins)
        if (k * bins - n + 1) // 2 >= k:
            return None
    return {"pyramid_height": height} | r.some(pool=["max", "average"])


@proposes("Upsample")
def upsample(r: Generator, kind: str, bottom: str) -> Declared | None:
    size = r.sample(bottom)[1:]
    if not 1 <= len(size) <= 3:
        return None
    return {"scale": r.shorten([r.integer(1, 3) for _ in size])} | r.some(mode=["nearest", "bilinear"])


# -- normalization, factors, disturbances ----------------------------------------------------------------

# Two values a group are always normalised to -1 and 1: what is left of their gradient is rounding.
FEWEST = 4


@proposes("BatchNorm")
def batch_norm(r: Generator, kind: str, bottom: str) -> Declared | None:
    frozen = r.chance(0.2)
    if r.tops[bottom].numel() // r.sample(bottom)[0] < FEWEST and not frozen:
        return None
    fields = r.some(eps=[1e-3, 0.1], moving_average_fraction=[0, 0.5], affine=[True, False])
    return fields | ({"use_global_stats": True} if frozen else r.some(statistics=["population"]))


@proposes("LayerNorm")
def layer_norm(r: Generator, kind: str, bottom: str) -> Declared | None:
    fields = ({"axis": r.axis(bottom)} if r.chance(0.5) else {}) | r.some(affine=[True, False], eps=[1e-3])
    axis = fields.get("axis", 1) % r.tops[bottom].ndim
    return fields if math.prod(r.tops[bottom].shape[axis:]) >= FEWEST else None


@proposes("GroupNorm")
def group_norm(r: Generator, kind: str, bottom: str) -> Declared | None:
    groups = r.divisor(r.sample(bottom)[0])
    if math.prod(r.sample(bottom)) // groups < FEWEST:
        return None
    return {"num_groups": groups} | r.some(affine=[True, False], eps=[1e-3])


@proposes("InstanceNorm", "MVN")
def instance_norm(r: Generator, kind: str, bottom: str) -> Declared | None:
    if math.prod(r.sample(bottom)[1:]) < FEWEST:
        return None
    if kind == "InstanceNorm":
        return r.some(affine=[True, False], eps=[1e-3])
    return r.some(normalize_variance=[True, False], across_channels=[True], eps=[1e-3])


@proposes("LRN")
def local_response(r: Generator, kind: str, bottom: str) -> Declared | None:
    fields = {"local_size": r.choice([1, 3, 5])} | r.some(alpha=[0.1, 2], beta=[0.5, 1])
    if r.chance(0.4) and 2 <= len(r.sample(bottom)) <= 4:
        return fields | {"norm_region": "within_channel"}
    return fields | r.some(k=[0.5, 2])


@proposes("Scale", "Bias")
def scale(r: Generator, kind: str, bottom: str) -> Declared | None:
    fields = r.some(bias_term=[True, False]) if kind == "Scale" else {}
    rank = r.tops[bottom].ndim
    if r.chance(0.5):
        fields["axis"] = r.axis(bottom)
    axis = fields.get("axis", 1) % rank
    if r.chance(0.6):
        return fields | r.some(num_axes=range(-1, rank - axis + 1))
    shape = [n if r.chance(0.8) else 1 for n in r.tops[bottom].shape[axis : r.integer(axis + 1, rank)]]
    shape += [1] * r.integer(0, 1)
    return fields | {"bottom": [bottom, r.another(shape, bottom)]}


@proposes("Dropout")
def dropout(r: Generator, kind: str, bottom: str) -> Declared | None:
    fields = r.some(dropout_ratio=[0, 0.1, 0.4], scale_at=["train", "test"])
    return fields | ({"whole_channel": True} if len(r.sample(bottom)) > 1 and r.chance(0.4) else {})


# -- structure -------------------------------------------------------------------------------------------


@proposes("Eltwise", "WeightedSum")
def eltwise(r: Generator, kind: str, bottom: str) -> Declared | None:
    bottoms = [bottom, *(r.another(r.sample(bottom), bottom) for _ in range(r.integer(1, 2)))]
    if r.chance(0.15):
        bottoms.append(bottom)
    if kind == "WeightedSum":
        return {"bottom": bottoms}
    fields = r.some(operation=["sum", "prod", "max"])
    if fields.get("operation", "sum") == "sum" and r.chance(0.4):
        fields["coeff"] = [r.choice([1, -1, 0.5, -0.3]) for _ in bottoms]
    return {"bottom": bottoms, **fields}


@proposes("Concat")
def concat(r: Generator, kind: str, bottom: str) -> Declared | None:
    axis, bottoms = r.axis(bottom), [bottom]
    for _ in range(r.integer(1, 2)):
        shape = r.sample(bottom)
        if r.chance(0.5):
            shape[axis % r.tops[bottom].ndim - 1] = r.integer(1, 3)
        bottoms.append(r.another(shape, bottom))
    return {"bottom": bottoms} | ({"axis": axis} if axis != 1 or r.chance(0.5) else {})


@proposes("Reduction")
def reduction(r: Generator, kind: str, bottom: str) -> Declared | None:
    fields = r.some(operation=["sum", "asum", "sumsq", "mean"], coeff=[0.1, -0.5])
    return fields | ({"axis": r.axis(bottom)} if r.chance(0.8) else {})


@proposes("ArgMax")
def arg_max(r: Generator, kind: str, bottom: str) -> Declared | None:
    axis = None if r.chance(0.2) else r.axis(bottom)
    size = math.prod(r.sample(bottom)) if axis is None else r.tops[bottom].shape[axis]
    fields = r.some(top_k=range(1, min(3, size) + 1), out_max_val=[True, False])
    return fields if axis == 1 and r.chance(0.5) else fields | {"axis": axis}


@proposes("Silence")
def silence(r: Generator, kind: str, bottom: str) -> Declared | None:
    names = list(r.tops)
    return {"bottom": [bottom, *(r.choice(names) for _ in range(r.integer(0, 1)))]}


@proposes("Flatten")
def flatten(r: Generator, kind: str, bottom: str) -> Declared | None:
    rank = r.tops[bottom].ndim
    first = r.integer(1, rank - 1)
    last = r.integer(first, rank - 1)
    if r.chance(0.3):
        return {}
    return {"axis": r.choice([first, first - rank])} | r.some(end_axis=[last, last - rank])


@proposes("Reshape")
def reshape(r: Generator, kind: str, bottom: str) -> Declared | None:
    old = r.sample(bottom)
    first = r.integer(0, len(old))
    last = r.integer(first, len(old))
    size = math.prod(old[first:last])
    shape: list[int] = []
    for _ in range(r.integer(0 if size == 1 and (first, last) != (0, len(old)) else 1, 3)):
        shape.append(r.divisor(size // math.prod(shape)))
    if not shape:
        return None
    shape[-1] *= size // math.prod(shape)
    for i, n in enumerate(shape):
        if first + i < len(old) and old[first + i] == n and r.chance(0.4):
            shape[i] = 0
    if r.chance(0.4):
        shape[r.integer(0, len(shape) - 1)] = -1
    fields: Declared = {"shape": shape}
    if first:
        fields["axis"] = r.choice([first + 1, first - len(old) - 1])
    if last < len(old):
        fields["num_axes"] = last - first
    return fields


@proposes("Permute")
def permute(r: Generator, kind: str, bottom: str) -> Declared | None:
    order = [0, *(int(axis) + 1 for axis in r.rng.permutation(len(r.sample(bottom))))]
    return {"order": order[: r.integer(2, len(order))]}


@proposes("Pad")
def pad(r: Generator, kind: str, bottom: str) -> Declared | None:
    size = r.sample(bottom)[1:]
    if not 1 <= len(size) <= 3:
        return None
    fields = r.some(mode=["constant", "edge", "reflect"])
    most = [min(2, n - 1) if fields.get("mode") == "reflect" else 2 for n in size]
    fields["pad"] = r.shorten([r.integer(0, n) for n in most])
    if r.chance(0.4):
        fields["pad_end"] = r.shorten([r.integer(0, n) for n in most])
    return fields | (r.some(value=[0.5, -1.5]) if fields.get("mode", "constant") == "constant" else {})


@proposes("Tile")
def tile(r: Generator, kind: str, bottom: str) -> Declared | None:
    return {"tiles": r.integer(1, 3)} | ({"axis": r.axis(bottom)} if r.chance(0.6) else {})


@proposes("Crop")
def crop(r: Generator, kind: str, bottom: str) -> Declared | None:
    shape = list(r.tops[bottom].shape)
    axis = r.axis(bottom) if len(shape) == 2 or r.chance(0.5) else 2
    first = axis % len(shape)
    want = [r.integer(1, n) for n in shape[first:]]
    offset = [r.integer(0, n - m) for n, m in zip(shape[first:], want, strict=True)]
    other = r.another([*shape[1:first], *want], bottom)
    fields: Declared = {"bottom": [bottom, other]} | ({} if axis == 2 else {"axis": axis})
    return fields | ({"offset": r.shorten(offset)} if any(offset) else {})


@proposes("Slice")
def cut(r: Generator, kind: str, bottom: str) -> Declared | None:
    axis = r.axis(bottom)
    size = r.tops[bottom].shape[axis]
    count = r.integer(2, 3)
    if size < count:
        return None
    fields: Declared = {"top": [r.fresh("cut") for _ in range(count)]}
    if axis != 1 or r.chance(0.5):
        fields["axis"] = axis
    if size % count or r.chance(0.5):
        points = r.rng.choice(size - 1, count - 1, replace=False) + 1
        fields["slice_point"] = sorted(int(point) for point in points)
    return fields
