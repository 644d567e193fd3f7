"""Rows of augmentations: the operations, their numpy twin on the same draws, and how their parameters are distributed.

Twins compute in float64, from the formula of each operation and not from how it is lowered: places by the inverse of a
matrix, hues by `colorsys`, crops by cutting padded arrays.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netc.augment.mixing import beta_quantiles
from tests.numpy_rng import keep_mask, random_bits

LOW, HIGH = 0.0, 255.0
# Places in float32 are wrong by 1e-7 of the image's size, and neighbours differ by up to the range; noise and colors
# round a few times.
COMPUTED = (HIGH - LOW) * 2e-5


@dataclass(frozen=True)
class Draw:
    """The draws of one operation at one step, as the hash gives them."""

    seed: int
    step: int
    n: int
    key: str

    def uniform(self, what: str, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] | None = None) -> Any:
        bits = random_bits(self.seed, self.step, self._name(what), (self.n,) if shape is None else shape) >> 16
        return low + (bits + 0.5) / 65536 * (high - low)

    def integer(self, what: str, count: int) -> Any:
        return np.floor(self.uniform(what, 0, count)).astype(int)

    def normal(self, what: str, shape: tuple[int, ...]) -> Any:
        u, v = self.uniform(what, shape=shape), self.uniform(f"{what}.angle", shape=shape)
        return np.sqrt(-2 * np.log(u)) * np.cos(2 * math.pi * v)

    def happens(self, probability: float, shape: tuple[int, ...] | None = None) -> Any:
        shape = (self.n,) if shape is None else shape
        if probability == 1.0:
            return np.ones(shape, bool)
        return keep_mask(self.seed, self.step, self._name("happens"), shape, 1.0 - probability)

    def _name(self, what: str) -> str:
        return f"data.augment/{self.key}/{what}"


Twin = Callable[[Draw, np.ndarray], np.ndarray]
Parameter = Callable[[Draw], np.ndarray]
Cdf = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """One operation: its fields, its twin, and its parameters with the distributions that were declared.

    A distribution is `(low, high)` of a uniform one, a number of equally likely whole numbers from 0 on, a probability,
    or a cumulative function on 0 to 1.
    """

    operation: dict[str, Any]
    twin: Twin
    tolerance: float = 0.0
    parameters: dict[str, tuple[Parameter, tuple[float, float] | int | float | Cdf]] = field(default_factory=dict)
    variant: str = ""

    @property
    def type(self) -> str:
        return str(self.operation["type"])

    @property
    def id(self) -> str:
        return self.type + (f" {self.variant}" if self.variant else "")


def each(change: Callable[[int, np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.stack([change(i, sample) for i, sample in enumerate(x)])


def gray(x: np.ndarray) -> np.ndarray:
    return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def column(values: Any) -> np.ndarray:
    return np.asarray(values).reshape(-1, 1, 1, 1)


def flip(axis: int, probability: float) -> Twin:
    def twin(draw: Draw, x: np.ndarray) -> np.ndarray:
        return np.where(column(draw.happens(probability)), np.flip(x, axis), x)

    return twin


def pad_crop(pad: tuple[int, int], probability: float = 1.0, fill: float = 0.0, mode: Any = "constant") -> Twin:
    def twin(draw: Draw, x: np.ndarray) -> np.ndarray:
        H, W = x.shape[2:]
        y, z = (
            draw.integer(what, 2 * p + 1) if p else np.zeros(draw.n, int) for what, p in zip("yx", pad, strict=True)
        )
        happens, widths = draw.happens(probability), ((0, 0), (pad[0],) * 2, (pad[1],) * 2)

        def cut(i: int, sample: np.ndarray) -> np.ndarray:
            given = {"constant_values": fill} if mode == "constant" else {}
            padded = np.pad(sample, widths, mode, **given)
            return padded[:, y[i] : y[i] + H, z[i] : z[i] + W] if happens[i] else sample

        return each(cut, x)

    return twin


def bilinear(sample: np.ndarray, y: np.ndarray, x: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """Return [C, H, W] at the places (y, x), with `fill` outside."""
    H, W = sample.shape[1:]
    padded = np.pad(sample, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
    top, left = np.floor(y), np.floor(x)
    total = np.zeros_like(sample)
    for row, column_ in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.abs(1 - row - (y - top)) * np.abs(1 - column_ - (x - left))
        rows, columns = (top + row + 1).clip(0, H + 1).astype(int), (left + column_ + 1).clip(0, W + 1).astype(int)
        total = total + padded[:, rows, columns] * weight
    return total


def affine_matrix(turn: float, lean: float, factor: float, dy: float, dx: float, size: Sequence[int]) -> np.ndarray:
    """Return what takes (x, y, 1) of the image to the place where it goes; angles in degrees, y downwards."""
    turn, lean, (cy, cx) = math.radians(turn), math.radians(lean), [(n - 1) / 2 for n in size]
    center = np.array([[1, 0, cx], [0, 1, cy], [0, 0, 1]])
    shear = np.array([[1, math.tan(lean), 0], [0, 1, 0], [0, 0, 1]])
    scale = np.diag([factor, factor, 1])
    rotate = np.array([[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    move = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]])
    return np.asarray(move @ center @ rotate @ scale @ shear @ np.linalg.inv(center))


AFFINE: dict[str, Any] = {"type": "Affine", "rotation": 20, "translation": 0.2, "scale": [0.7, 1.2], "shear": [-5, 9]}


def affine_places(draw: Draw, size: Sequence[int], probability: float = 1.0) -> list[np.ndarray]:
    """Return for each sample [2, H, W] the places (x, y) that the row AFFINE reads."""
    happens = draw.happens(probability)
    turn, lean = draw.uniform("rotation", -20, 20), draw.uniform("shear", -5, 9)
    factor = draw.uniform("scale", 0.7, 1.2)
    dy, dx = draw.uniform("y", -0.2, 0.2) * size[0], draw.uniform("x", -0.2, 0.2) * size[1]
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    there = np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    found: list[np.ndarray] = []
    for i in range(draw.n):
        matrix = affine_matrix(turn[i], lean[i], factor[i], dy[i], dx[i], size) if happens[i] else np.eye(3)
        found.append((np.linalg.inv(matrix) @ there)[:2].reshape(2, *size))
    return found


def affine(probability: float = 1.0, fill: float = 0.0) -> Twin:
    def twin(draw: Draw, x: np.ndarray) -> np.ndarray:
        places = affine_places(draw, x.shape[2:], probability)
        return each(lambda i, sample: bilinear(sample, places[i][1], places[i][0], fill), x)

    return twin


def resized_crop(draw: Draw, x: np.ndarray) -> np.ndarray:
    H, W = x.shape[2:]
    area = draw.uniform("area", 0.25, 1.0) * H * W
    ratio = np.exp(draw.uniform("ratio", math.log(0.5), math.log(2.0)))
    height, width = np.minimum(np.sqrt(area / ratio), H), np.minimum(np.sqrt(area * ratio), W)
    top, left = draw.uniform("y") * (H - height), draw.uniform("x") * (W - width)
    rows, columns = np.mgrid[:H, :W]

    def cut(i: int, sample: np.ndarray) -> np.ndarray:
        y = top[i] + (rows + 0.5) * height[i] / H - 0.5
        z = left[i] + (columns + 0.5) * width[i] / W - 0.5
        return bilinear(sample, y.clip(0, H - 1), z.clip(0, W - 1))

    return each(cut, x)


def gaussian(sigma: float, size: int) -> np.ndarray:
    """Return the matrix that smooths a line: each row sums to 1."""
    places = np.arange(size, dtype=float)
    weights = np.exp(-(np.subtract.outer(places, places) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def elastic(draw: Draw, x: np.ndarray) -> np.ndarray:
    H, W = x.shape[2:]
    fields = [draw.uniform(what, -1, 1, (draw.n, H, W)) for what in "yx"]
    y, z = (8.0 * gaussian(2.0, H) @ drawn @ gaussian(2.0, W).T for drawn in fields)
    rows, columns = np.mgrid[:H, :W]
    return each(lambda i, sample: bilinear(sample, rows + y[i], columns + z[i], 7.0), x)


def brightness(draw: Draw, x: np.ndarray) -> np.ndarray:
    return np.clip(x * column(draw.uniform("factor", 0.6, 1.4)), LOW, HIGH)


def contrast(draw: Draw, x: np.ndarray) -> np.ndarray:
    factor = np.where(draw.happens(0.5), draw.uniform("factor", 0.6, 1.4), 1.0)
    mean = column([gray(sample[None]).mean() for sample in x])
    return np.clip((x - mean) * column(factor) + mean, LOW, HIGH)


def saturation(draw: Draw, x: np.ndarray) -> np.ndarray:
    return np.clip((x - gray(x)) * column(draw.uniform("factor", 0.0, 2.0)) + gray(x), LOW, HIGH)


def hue(draw: Draw, x: np.ndarray) -> np.ndarray:
    shift = draw.uniform("shift", -0.3, 0.3)

    def turned(i: int, sample: np.ndarray) -> np.ndarray:
        pixels = [colorsys.rgb_to_hsv(*pixel) for pixel in sample.reshape(3, -1).T]
        back = [colorsys.hsv_to_rgb((h + shift[i]) % 1.0, s, v) for h, s, v in pixels]
        return np.array(back).T.reshape(sample.shape)

    return each(turned, x)


def noise(draw: Draw, x: np.ndarray) -> np.ndarray:
    return np.clip(x + draw.normal("noise", x.shape) * 0.05 * (HIGH - LOW), LOW, HIGH)


def salt(draw: Draw, x: np.ndarray) -> np.ndarray:
    drawn = draw.uniform("pixels", shape=(draw.n, 1, *x.shape[2:]))
    return np.where(drawn < 0.15, LOW, np.where(drawn > 0.85, HIGH, x))


def blur(draw: Draw, x: np.ndarray) -> np.ndarray:
    sigma, (H, W), happens = draw.uniform("sigma", 0.1, 2.0), x.shape[2:], draw.happens(0.5)
    return each(lambda i, s: gaussian(sigma[i], H) @ s @ gaussian(sigma[i], W).T if happens[i] else s, x)


def cutout(draw: Draw, x: np.ndarray) -> np.ndarray:
    y, z = (draw.integer(what, side) for what, side in zip("yx", x.shape[2:], strict=True))

    def cut(i: int, sample: np.ndarray) -> np.ndarray:
        sample = sample.copy()
        sample[:, max(y[i] - 1, 0) : y[i] + 2, max(z[i] - 2, 0) : z[i] + 2] = 9.0
        return sample

    return each(cut, x)


MIXUP_SHARES = beta_quantiles(0.4, 4096)


def mixup_share(draw: Draw) -> float:
    return float(MIXUP_SHARES[int(draw.uniform("share", 0, 4096, ()))])


def mixup(draw: Draw, x: np.ndarray) -> np.ndarray:
    share = mixup_share(draw)
    return x * share + np.roll(x, -1, 0) * (1 - share)


def cutmix_box(draw: Draw, size: Sequence[int]) -> tuple[slice, slice]:
    ratio = math.sqrt(1 - float(draw.uniform("share", shape=())))
    box = []
    for what, side in zip("yx", size, strict=True):
        half, middle = int(side * ratio) // 2, int(draw.uniform(what, 0, side, ()))
        box.append(slice(max(middle - half, 0), min(middle + half, side)))
    return box[0], box[1]


def cutmix(draw: Draw, x: np.ndarray) -> np.ndarray:
    rows, columns = cutmix_box(draw, x.shape[2:])
    mixed = x.copy()
    mixed[:, :, rows, columns] = np.roll(x, -1, 0)[:, :, rows, columns]
    return mixed


def drawn(what: str, low: float, high: float) -> tuple[Parameter, tuple[float, float]]:
    return lambda draw: draw.uniform(what, low, high), (low, high)


def counted(what: str, count: int) -> tuple[Parameter, int]:
    return lambda draw: draw.integer(what, count), count


def happening(probability: float) -> tuple[Parameter, float]:
    return lambda draw: draw.happens(probability), probability


ROWS = (
    Row({"type": "HorizontalFlip"}, flip(3, 0.5), parameters={"happens": happening(0.5)}),
    Row({"type": "HorizontalFlip", "probability": 1.0}, flip(3, 1.0), variant="always"),
    Row({"type": "VerticalFlip", "probability": 0.3}, flip(2, 0.3), parameters={"happens": happening(0.3)}),
    Row(
        {"type": "PadCrop", "pad": [2, 3], "fill": 9.0},
        pad_crop((2, 3), fill=9.0),
        parameters={"y": counted("y", 5), "x": counted("x", 7)},
    ),
    Row({"type": "PadCrop", "pad": [0, 2], "border": "edge"}, pad_crop((0, 2), mode="edge"), variant="edge"),
    Row(
        {"type": "PadCrop", "pad": 4, "border": "reflect", "probability": 0.5},
        pad_crop((4, 4), 0.5, mode="reflect"),
        variant="reflect",
    ),
    Row(
        AFFINE,
        affine(),
        COMPUTED,
        {
            "rotation": drawn("rotation", -20, 20),
            "shear": drawn("shear", -5, 9),
            "scale": drawn("scale", 0.7, 1.2),
            "y": drawn("y", -0.2, 0.2),
            "x": drawn("x", -0.2, 0.2),
        },
    ),
    Row({**AFFINE, "probability": 0.5, "fill": 50.0}, affine(0.5, 50.0), COMPUTED, variant="sometimes"),
    Row(
        {"type": "RandomResizedCrop", "area": [0.25, 1.0], "ratio": [0.5, 2.0]},
        resized_crop,
        COMPUTED,
        {
            "area": drawn("area", 0.25, 1.0),
            "ratio": drawn("ratio", math.log(0.5), math.log(2.0)),
            "y": drawn("y", 0, 1),
        },
    ),
    Row(
        {"type": "ElasticDistortion", "alpha": 8, "sigma": 2, "fill": 7.0},
        elastic,
        COMPUTED,
        {"y": (lambda draw: draw.uniform("y", -1, 1, (draw.n, 2, 2)).ravel(), (-1.0, 1.0))},
    ),
    Row({"type": "Brightness", "factor": [0.6, 1.4]}, brightness, COMPUTED, {"factor": drawn("factor", 0.6, 1.4)}),
    Row({"type": "Contrast", "factor": 0.4, "probability": 0.5}, contrast, COMPUTED, {"happens": happening(0.5)}),
    Row({"type": "Saturation", "factor": 1.0}, saturation, COMPUTED, {"factor": drawn("factor", 0.0, 2.0)}),
    Row({"type": "Hue", "shift": 0.3}, hue, COMPUTED, {"shift": drawn("shift", -0.3, 0.3)}),
    Row(
        {"type": "Grayscale", "probability": 0.4},
        lambda draw, x: np.where(column(draw.happens(0.4)), gray(x), x),
        COMPUTED,
        {"happens": happening(0.4)},
    ),
    Row(
        {"type": "Invert"},
        lambda draw, x: np.where(column(draw.happens(0.5)), LOW + HIGH - x, x),
        parameters={"happens": happening(0.5)},
    ),
    Row(
        {"type": "GaussianNoise", "std": 0.05},
        noise,
        COMPUTED,
        # As many pixels a step as samples: Phi of the noise is uniform.
        {"noise": (lambda draw: normal_cdf(draw.normal("noise", (draw.n, 1, 1, 1)).ravel()), (0.0, 1.0))},
    ),
    Row(
        {"type": "SaltAndPepper", "amount": 0.3},
        salt,
        parameters={"pixels": (lambda draw: draw.uniform("pixels", shape=(draw.n, 1, 1, 1)).ravel(), (0.0, 1.0))},
    ),
    Row(
        {"type": "GaussianBlur", "probability": 0.5},
        blur,
        COMPUTED,
        {"sigma": drawn("sigma", 0.1, 2.0), "happens": happening(0.5)},
    ),
    Row(
        {"type": "Cutout", "size": [3, 4], "fill": 9.0},
        cutout,
        parameters={"y": counted("y", 6), "x": counted("x", 7)},
    ),
    Row({"type": "Mixup", "alpha": 0.4}, mixup, COMPUTED),
    Row({"type": "CutMix"}, cutmix),
)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
