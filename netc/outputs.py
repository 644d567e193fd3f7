"""What inference returns: tops that no layer continues from, and on demand the scores of sides.

Goals: which tops are outputs, what a loss applies to each and the labels that it is compared with.
Non-goals: values; a top may have none where its layer could not be lowered.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import onnx_ir as ir

from netc.errors import SpecError, UsageError, near
from netc.layers.activation import Softmax
from netc.layers.base import Loss
from netc.spec.load import Loaded
from netc.wiring import Placed, Wiring


@dataclass(frozen=True)
class Output:
    """A top of the main path, or of the fused head, that no layer continues from; or what a loss of a side reads.

    `activation` is what a loss applies to it; `label` the label input whose classes it scores; `side` the layer that
    its side branches off from.
    """

    name: str
    value: ir.Value
    activation: str | None
    label: str | None
    side: str | None = None


@dataclass(frozen=True)
class SideScore:
    """What a loss of a side reads: the layer that the side branches off from, the top, and the loss."""

    side: str
    top: str
    loss: Placed


def side_scores(wiring: Wiring, names: Sequence[str]) -> list[SideScore]:
    """Return the scores of the sides that are called by one of `names`, in the order of the spec.

    A side is called like the layer that it branches off from, like its loss, as metrics are, or like its scores; the
    name of a block means all sides in it.

    Raises:
        UsageError: a name is none of these.
    """
    owners = {id(placed.layer.side): placed.layer.name for placed in wiring.placed if placed.layer.side is not None}
    scores = [
        SideScore(owners[id(placed.sides[-1])], str(placed.bottoms[0]), placed)
        for placed in wiring.placed
        if placed.is_companion and isinstance(placed.layer, Loss)
    ]
    for name in names:
        if not any(name in _names(score) for score in scores):
            raise UsageError(_unknown(name, scores))
    return [score for score in scores if not _names(score).isdisjoint(names)]


def _names(score: SideScore) -> set[str]:
    """Return what a side may be called: its owner, the blocks around that, its loss, and its scores."""
    parts = score.side.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts) + 1)} | {score.loss.layer.name, score.top}


def _unknown(name: str, scores: Sequence[SideScore]) -> str:
    """Say which sides there are."""
    if not scores:
        return f'there is no side "{name}", since the network has no sides'
    found = near(name, set().union(*map(_names, scores)))
    known = ", ".join(f"{score.side} (loss {score.loss.layer.name})" for score in scores)
    return f'there is no side "{name}"; ' + (f'did you mean "{found}"? ' if found else "") + f"sides: {known}"


def with_scores(wiring: Wiring, scores: Sequence[SideScore]) -> Set[str]:
    """Return the names of the layers of inference, those among them that the scores of sides need."""
    kept = set(wiring.kept)
    wanted: set[str | None] = {score.top for score in scores}
    for placed in reversed(wiring.placed):  # readers come later
        if placed.layer.name not in kept and not wanted.isdisjoint(placed.layer.tops):
            kept.add(placed.layer.name)
            wanted.update(placed.bottoms)
    return kept


def collect_outputs(
    loaded: Loaded, wiring: Wiring, tops: Mapping[str, ir.Value], scores: Sequence[SideScore] = ()
) -> list[Output]:
    """Find the tops that inference returns, `scores` of sides last.

    A model of nothing but targets and weighed layers returns those.

    Raises:
        SpecError: there is none.
    """
    minimised = wiring.only_minimised
    found = (
        _outputs(wiring, tops, minimised, targets=False)
        or _outputs(wiring, tops, minimised)
        or _outputs(wiring, tops, frozenset())
    )
    silences = [placed.path for placed in wiring.placed if not placed.layer.tops]
    if not found and silences:
        message = "the model has no output: Silence reads whatever no layer continues from; leave one top to it"
        raise SpecError([loaded.at(silences[-1], message)])
    for score in scores:
        if score.top not in (output.name for output in found):
            loss, bottoms = score.loss.layer, score.loss.bottoms
            label = bottoms[-1] if loss.takes_labels else None
            activation = loss.activation if isinstance(loss, Loss) else None
            found.append(Output(score.top, tops[score.top], activation, label, score.side))
    return found


def _outputs(wiring: Wiring, tops: Mapping[str, ir.Value], without: Set[str], targets: bool = True) -> list[Output]:
    """Return the tops of inference that only objectives, or the layers `without`, read; targets only on demand."""
    kept, found = wiring.kept, list[Output]()
    offered = kept - without
    for placed, name in [(each, top) for each in wiring.placed for top in each.layer.tops]:
        if placed.layer.name not in offered or placed.is_companion or name not in tops:
            continue
        readers = [r for r in wiring.readers(name) if r.layer.name in kept or not r.is_companion]
        objectives = [reader for reader in readers if reader.is_objective]
        is_target = bool(objectives) and all(reader.bottoms[0] != name for reader in objectives)
        if (targets or not is_target) and all(r.is_objective or r.layer.name in without for r in readers):
            losses = [r.layer for r in readers if isinstance(r.layer, Loss) and r.bottoms[0] == name]
            activation = next((loss.activation for loss in losses), None)
            found.append(Output(name, tops[name], activation, _label_of(wiring, placed, name)))
    return found


def _label_of(wiring: Wiring, placed: Placed, top: str) -> str | None:
    """Return the label input that a loss or metric compares a top with, also through a softmax behind it."""
    sources = [top, *(placed.bottoms if isinstance(placed.layer, Softmax) else ())]
    for name in sources:
        for reader in wiring.readers(str(name)):
            if reader.layer.takes_labels and reader.bottoms[0] == name and not reader.is_companion:
                return reader.bottoms[-1]
    return None
