"""What becomes of a batch before the first layer: graph inputs, augmentation while training, and normalization."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from netc.augment.base import AugmentError, Geometric
from netc.augment.mixing import CutMix
from netc.augment.pipeline import Batch, Part, Pipeline
from netc.graph import Origin, shape_of
from netc.layers.base import MAX_ELEMENTS, elements
from netc.layers.context import Context
from netc.layers.shapes import reshape
from netc.spec.load import UNKNOWN_INPUT, Loaded
from netc.spec.model import COMPUTED, Input
from netc.wiring import Placed

Report = Callable[[tuple[str | int, ...], str], None]


@dataclass
class Fed:
    """The batch of a network.

    Attributes:
        batch: the graph inputs by name.
        tops: what layers read of them.
        augmented: raw values after augmentation, of the inputs that it changes.
        mixed: for labels that augmentation mixes, what they are mixed of.
    """

    batch: dict[str, ir.Value] = field(default_factory=dict)
    tops: dict[str, ir.Value] = field(default_factory=dict)
    augmented: dict[str, ir.Value] = field(default_factory=dict)
    mixed: Mapping[str, Sequence[Part]] = field(default_factory=dict)


def data_fields(inputs: Mapping[str, Input]) -> dict[str, str]:
    """Return which field of the data each input takes."""
    fields: dict[str, str] = {}
    claimed = {"image", "label"} & inputs.keys()
    for name, declared in inputs.items():
        kind = "label" if declared.classes is not None else "image"
        fields[name] = name if kind in claimed else kind
        claimed.add(fields[name])
    return fields


def image_size(inputs: Mapping[str, Input]) -> tuple[int, int] | None:
    """Return the height and width of the images that `inputs` take; None where they take none."""
    shapes = (inputs[name].shape or [] for name, field in data_fields(inputs).items() if field == "image")
    return next(((shape[1], shape[2]) for shape in shapes if len(shape) == 3), None)


def feed(net: Context, loaded: Loaded, axis: int | str, placed: Sequence[Placed], report: Report) -> Fed:
    """Declare the inputs of a network; while training, augment them, and normalize the image in every phase.

    The image is the first input of numbers. Mistakes are reported; the top of what cannot be fed is missing.
    """
    fed = Fed()
    for name, declared in loaded.spec.inputs.items():
        if declared != UNKNOWN_INPUT and _fits(name, declared.shape or [], axis, report):
            is_label = declared.shape is None or declared.classes is not None
            dtype = ir.DataType.INT32 if is_label else net.g.dtype
            fed.batch[name] = net.g.input(name, dtype, [axis, *(declared.shape or ())])
    fed.tops = dict(fed.batch)
    image = next((name for name, value in fed.batch.items() if value.dtype == net.g.dtype), None)
    if image is None:
        if loaded.spec.data.augment and UNKNOWN_INPUT not in loaded.spec.inputs.values():
            report(("data", "augment"), "augment: no input is an image; give one a shape, or remove the operations")
        return fed
    if net.phase == "train" and loaded.spec.data.augment and len(fed.batch) == len(loaded.spec.inputs):
        _augment(net, loaded, fed, image, placed, report)
    fed.tops[image] = _normalized(net, loaded, image, fed.tops[image], report)
    return fed


def _fits(name: str, shape: Sequence[int], axis: int | str, report: Report) -> bool:
    """Whether one sample of an input, and then a batch of them, has no more elements than a tensor can have."""
    batch = axis if isinstance(axis, int) else 1
    count = elements(shape)
    if count * batch <= MAX_ELEMENTS:
        return True
    if count > MAX_ELEMENTS:
        whole = f"{count:,} values, more than the {MAX_ELEMENTS:,} that a tensor can hold"
        report(("inputs", name, "shape"), f"{name}: one sample has {whole}; give it a smaller shape")
    else:
        whole = f"more than the {MAX_ELEMENTS:,} values that a tensor can hold"
        report(("data", "batch_size"), f"batch_size {batch} gives an input {whole}; lower it")
    return False


def _augment(net: Context, loaded: Loaded, fed: Fed, image: str, placed: Sequence[Placed], report: Report) -> None:
    data, shape = loaded.spec.data, shape_of(fed.batch[image])
    if len(shape) != 4:
        message = f'augment: works on images [channels, height, width], and "{image}" has {len(shape) - 1} axes'
        report(("data", "augment"), f"{message}; remove it")
        return
    dense = [
        name
        for name, value in fed.batch.items()
        if name != image and len(shape_of(value)) >= 3 and shape_of(value)[-2:] == shape[-2:]
    ]
    moving = [index for index, operation in enumerate(data.augment) if isinstance(operation, Geometric | CutMix)]
    for name, value in fed.batch.items():
        is_map = len(shape_of(value)) >= (3 if value.dtype == ir.DataType.INT32 else 4)
        if moving and is_map and name != image and name not in dense:
            places, own = ("x".join(map(str, axes[-2:])) for axes in (shape, shape_of(value)))
            message = f'{data.augment[moving[0]].type}: moves the {places} places of "{image}", and "{name}" has {own}'
            report(("data", "augment", moving[0]), f"{message}; give both one size, or remove it")
            return
    fills = {name: _outside(placed, name) for name in dense}
    batch = Batch(image, dict(fed.batch), fills)
    limits = None if data.range is None else (data.range[0], data.range[1])

    def place(index: int) -> str:
        return loaded.place(("data", "augment", index))

    def mistaken(index: int, error: AugmentError) -> None:
        report(("data", "augment", index, *([error.field] if error.field else [])), str(error))

    Pipeline(net.g, net.random, place, limits).apply(data.augment, batch, mistaken)
    fed.augmented = {name: value for name, value in batch.values.items() if value is not fed.batch[name]}
    fed.mixed = batch.mixed
    fed.tops |= fed.augmented | {name: _most(net, parts) for name, parts in batch.mixed.items()}


def _outside(placed: Sequence[Placed], name: str) -> float:
    """Return what a dense target has where nothing of it is: the value that its losses ignore, if they agree on one."""
    readers = [each.layer.ignored for each in placed if each.is_objective and each.bottoms[-1] == name]
    ignored = {label for label in readers if label is not None}
    return float(ignored.pop()) if len(ignored) == 1 else 0.0


def _most(net: Context, parts: Sequence[Part]) -> ir.Value:
    """Return the labels with the largest share, the first of equal ones."""
    labels, share = parts[0].labels, parts[0].share
    with net.g.origin(Origin("augment/labels", "preprocess")):
        for part in parts[1:]:
            labels = net.g.Where(net.g.GreaterOrEqual(share, part.share), labels, part.labels)
            share = net.g.Max(share, part.share)
    return labels


def _normalized(net: Context, loaded: Loaded, name: str, value: ir.Value, report: Report) -> ir.Value:
    """Return (value - mean) / std * scale."""
    g, data = net.g, loaded.spec.data
    shape = [int(n) for n in shape_of(value)[1:]]
    along = [-1] + [1] * (len(shape) - 1)

    def constant(key: str) -> np.ndarray | None:
        """Return what the spec says, to broadcast along the channels; None for what is wrong."""
        given = np.array(getattr(data, key), np.float64)
        if given.ndim and given.size != shape[0]:
            message = f"{key} has {given.size} values, but {name} has {shape[0]} channels"
            report(("data", key), f"{message}; give one number, or one a channel")
            return None
        return given.reshape(along) if given.ndim else given

    with g.origin(Origin(name, "preprocess")), g.arithmetic():
        if data.mean == COMPUTED:
            value = value - reshape(g, net.data_statistic(name, "mean", shape[0]), along)
        elif (mean := constant("mean")) is not None and mean.any():
            value = value - g.constant(mean.astype(g.dtype.numpy()))
        if data.std == COMPUTED:
            value = value / reshape(g, net.data_statistic(name, "std", shape[0]), along)
            return value if data.scale == 1.0 else value * data.scale
        if (std := constant("std")) is None or not std.ndim:
            factor = data.scale if std is None else data.scale / float(std)
            return value if factor == 1.0 else value * factor
        return value * g.constant((data.scale / std).astype(g.dtype.numpy()))
