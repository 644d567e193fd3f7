"""Transfer learning: check what the globs of a spec choose, once its parameters are known."""

from collections.abc import Iterable, Iterator, Sequence

from netc.errors import Diagnostic, near
from netc.layers.context import StateTensor
from netc.layers.tuning import matches
from netc.spec.load import Loaded

LOADED = ("parameter", "statistic")  # roles of state that another file can give values to
_SHOWN = 5  # names in one sentence


def drawn(reinit: Iterable[str], state: Iterable[StateTensor]) -> list[str]:
    """Return the names of the tensors that the globs `reinit` keep from being loaded."""
    globs = list(reinit)
    kept = (t for t in state if t.role in LOADED)
    return [t.name for t in kept if any(matches(glob, t.layer, t.name) for glob in globs)]


def glob_mistakes(loaded: Loaded, state: Iterable[StateTensor]) -> Iterator[Diagnostic]:
    """Yield a sentence for each glob that chooses nothing, and one if nothing is left to train."""
    spec = loaded.spec
    kept = [t for t in state if t.role in LOADED]
    learned = [t for t in kept if t.role == "parameter"]
    given: list[tuple[Sequence[str | int], str, list[StateTensor]]] = [
        *(((*loaded.path_of("freeze"), index), glob, kept) for index, glob in enumerate(spec.freeze)),
        *((("reinit", index), glob, kept) for index, glob in enumerate(spec.reinit)),
        *(((*loaded.path_of("lr_mult"), glob), glob, learned) for glob in spec.lr_mult),
    ]
    for path, glob, tensors in given:
        if not any(matches(glob, tensor.layer, tensor.name) for tensor in tensors):
            message = f'{path[-2]}: "{glob}" matches neither a layer with parameters nor one of these'
            yield loaded.at(path, message + _suggestion(glob, tensors), key=path[-2] == "lr_mult")
    if learned and (spec.freeze or spec.lr_mult) and not any(tensor.lr_mult for tensor in learned):
        section = "freeze" if spec.freeze else "lr_mult"
        message = f"{section}: every parameter is frozen, so there is nothing to train; leave at least one out"
        yield loaded.at(loaded.path_of(section), message, key=True)


def _suggestion(glob: str, tensors: Iterable[StateTensor]) -> str:
    layers = list(dict.fromkeys(tensor.layer for tensor in tensors))
    meant = near(glob, [*layers, *(tensor.name for tensor in tensors)])
    if meant is not None:
        return f'; did you mean "{meant}"?'
    more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
    return f"; layers with parameters: {', '.join(layers[:_SHOWN])}{more}"
