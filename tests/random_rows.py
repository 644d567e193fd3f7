"""How the random networks declare layers without a twin: as in a row of theirs, above what the row reads."""

from collections.abc import Callable

from tests.cases.domains import Shape
from tests.random_networks import ROW_PROPOSALS, Declared, Generator
from tests.torch_layers_rows import ONLY_ROWS, Source, stands


def of_row(r: Generator, kind: str, bottom: str) -> Declared:
    """Declare a layer as one of its rows does, above layers that bring `bottom` into the shape of the row's image.

    Raises:
        LookupError: the type has no row of the kind.
    """
    stand = r.choice(stands(kind))
    image = _brought(r, stand.sources["image"], lambda shape: r.projected(bottom, shape))
    sources = {"image": image}
    for name, source in stand.sources.items():
        if name != "image":
            sources[name] = _brought(r, source, lambda shape: r.another(shape, image))
    return {"bottom": [sources[name] for name in stand.bottoms], **stand.fields}


def _brought(r: Generator, source: Source, shaped: Callable[[Shape], str]) -> str:
    """Return something like an input of a row, numbers from a top that is shaped for it."""
    if source.classes is not None:
        return r.input("label", source.shape, source.classes)
    assert source.shape is not None
    if source.binary:
        return r.input("binary", source.shape)
    top = shaped(source.shape)
    if source.bounds is None:
        return top
    low, high = source.bounds
    top = r.must({"type": "Sigmoid", "bottom": top})
    return r.must({"type": "Power", "bottom": top, "scale": high - low, "shift": low})


ROW_PROPOSALS.update(dict.fromkeys(ONLY_ROWS, of_row))
