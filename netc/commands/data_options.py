"""`--set data.KEY=VALUE` where nothing is compiled: what has an effect there, and why all else is refused."""

from collections.abc import Sequence
from typing import Any

from netc.errors import UsageError

_COMPILED = "is compiled into the programs that training made; leave it out, or train with it"
_TRAINING = {
    **dict.fromkeys(("batch_size", "augment", "mean", "std", "scale"), _COMPILED),
    "resident": "says where data stay while training; leave it out",
}
_OF_SPECS = (*_TRAINING, "test_views")
_LIMIT = "keeps some of the training samples, {}; leave it out"
_NAMES = ("source", "path", "classes", "labels", "target", "delimiter")  # by which classes may have other names
_VIEWS = "are averaged with --tta alone; add that, or leave them out"


def data_of_source(given: Sequence[str] | None, source: str) -> dict[str, Any]:
    """Return what the options of `netc data show` say of a source alone; raises UsageError, SpecError."""
    from netc.arguments import data_overrides

    data = data_overrides(given)
    for key in _OF_SPECS:
        if data.get(key) is not None:
            raise UsageError(f"data.{key} belongs to a spec, and {source} is a data source alone; name a spec instead")
    return data


def data_to_evaluate(given: Sequence[str] | None, tta: bool) -> dict[str, Any]:
    """Return what the options of `netc eval` replace in a data section; raises UsageError, SpecError."""
    return _effective(given, {"limit": _LIMIT.format("and those of the test split are evaluated"), **_views(tta)})


def data_to_export(given: Sequence[str] | None, calibrates: bool) -> dict[str, Any]:
    """Return what the options of `netc export` replace in a data section; raises UsageError, SpecError."""
    limit = {} if calibrates else {"limit": _LIMIT.format("which only --int8 takes")}
    return _effective(given, {**limit, "test_views": "are for netc eval and netc predict; leave them out"})


def data_to_predict(
    given: Sequence[str] | None, inputs: Sequence[str], tta: bool, of_run: bool = False
) -> dict[str, Any]:
    """Return what the options of `netc predict` replace in a data section; raises UsageError, SpecError.

    A run (`of_run`) takes names of classes and the range of pictures from that section, which a model has in itself.
    """
    from netc_runtime.predict import splits_named

    splits = splits_named(inputs)
    idle = _views(tta)
    if "train" not in splits:
        idle["limit"] = _LIMIT.format("of which no INPUT names any")
    if not splits:
        kept = ("test_views", *((*_NAMES, "range") if of_run else ()))
        reason = "concerns samples of the data, such as test:17, of which no INPUT names any; leave it out"
        return _effective(given, idle, reason, kept)
    return _effective(given, idle)


def _views(tta: bool) -> dict[str, str]:
    return {} if tta else {"test_views": _VIEWS}


def _effective(
    given: Sequence[str] | None, idle: dict[str, str], others: str | None = None, kept: Sequence[str] = ()
) -> dict[str, Any]:
    """Refuse the keys of `idle`, which gives the reasons, and with `others` all that are not `kept`."""
    from netc.arguments import data_overrides

    data = data_overrides(given)
    for option in given or ():
        _, key, *inside = option.partition("=")[0].strip().split(".")
        if inside:
            raise UsageError(f"--set {option}: here only the whole of {key} can be given, as data.{key}={{...}}")
        reason = (_TRAINING | idle).get(key) or (None if key in kept else others)
        lifted = key == "limit" and data[key] is None  # of a spec that was trained where there were more samples
        if reason is not None and not lifted:
            raise UsageError(f"--set {option}: {key} {reason}")
    return data
