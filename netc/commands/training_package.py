"""What `netc export --what train` does: pack what another host trains by."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netc.commands.common import compile_spec, drive, print_json, warn
from netc.errors import UsageError

if TYPE_CHECKING:
    from netc_runtime.training_package import PackageReport


def export_training(
    source: str,
    out: Path,
    checkpoint: str = "init",
    target: str | None = None,
    overrides: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Write the training package of a RUN, an ARTIFACT or a SPEC, and print what was written.

    Args:
        source: a run folder, an artifact folder, a YAML file, or the name of a spec of the zoo.
        out: the folder or zip file to write.
        checkpoint: `init`, `last`, `best` or a path; a SPEC has its first state alone.
        target: the engine to choose lowerings for; None: that of the run or the artifact, `cpu` for a spec.
        overrides: `--set` of a SPEC.
        as_json: whether to print JSON.

    Raises:
        UsageError: overrides of what is compiled already.
        SpecError: with all mistakes of the spec.
    """
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        report = _packed(source, out, checkpoint, target, list(overrides), Path(scratch) / "artifact")
    if as_json:
        print_json({"event": "packed", **vars(report)})
    else:
        print(
            f"packed {report.path}: {report.files} files, {report.size / 1e6:.1f} MB, "
            f"the state of {report.checkpoint} after {report.step} steps"
        )


def _packed(
    source: str, out: Path, checkpoint: str, target: str | None, overrides: list[str], scratch: Path
) -> "PackageReport":
    """Compile if need be, and pack."""
    from netc.arguments import target_of
    from netc.emit import write
    from netc_runtime.training_package import pack_training

    given = Path(source)
    artifact = next((path for path in (given / "artifact", given) if (path / "manifest.json").is_file()), None)
    if artifact is not None and overrides:
        raise UsageError(f"--set {overrides[0]}: {source} is compiled already; give the spec instead")
    if checkpoint in ("last", "best") and artifact != given / "artifact":
        what = "a spec" if artifact is None else "a compiled folder"
        raise UsageError(
            f"{source} is {what}, which has no checkpoints: name a run folder, or the file to take, as "
            "--checkpoint FILE.safetensors"
        )
    compiled: Path | None = None
    if artifact is None:
        write(compile_spec(source, overrides, target or "cpu", need_data=False), scratch)
        given = scratch
    elif target is not None and target != target_of(artifact):
        write(compile_spec(str(artifact), [], target, need_data=False), scratch)
        compiled = scratch
    packed: PackageReport = drive(lambda: pack_training(given, out, checkpoint, compiled, warn))
    return packed
