"""The commands about data: list, show and fetch."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netc.commands.common import (
    Device,
    JsonOption,
    SetOption,
    artifact_folder,
    data_of_spec,
    drive,
    fail,
    print_json,
    warn,
)
from netc.commands.data_options import data_of_source
from netc.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from netc_runtime.data.base import Source
    from netc_runtime.data.sheet import Variants

_DRAWS = 11  # of each sample of a contact sheet

app = typer.Typer(
    name="data", help="List data sources, look at data, and fetch well-known data sets.", no_args_is_help=True
)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the data sources that a spec can name, what they need and what they read.

    Example: netc data list
    """
    from netc_runtime.data import SOURCES
    from netc_runtime.data.remotes import FETCHED

    rows = [
        {
            "name": name,
            "about": source.about,
            "extra": source.extra,
            "fetched": name in FETCHED,
            "options": [
                {"name": one.name, "value": one.kind.name, "default": one.default, "about": one.about, "note": one.note}
                for one in source.options
            ],
        }
        for name, source in SOURCES.items()
    ]
    if as_json:
        print_json(rows)
        return
    width = max(map(len, SOURCES))
    for name, source in SOURCES.items():
        needs = f" (needs netc[{source.extra}])" if source.extra else ""
        fetched = f" (netc data fetch {name})" if name in FETCHED else ""
        print(f"{name:<{width}}  {source.about}{needs}{fetched}")
        print(f"{'':<{width}}    {', '.join(option.name for option in source.options)}")


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(metavar="SOURCE|SPEC", help="A data source, a YAML file, or the name of a spec of the zoo.")
    ],
    overrides: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="PNG", help="Contact sheet to write; default NAME_samples.png."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print counts, shapes, classes, mean and standard deviation, and write a contact sheet of samples.

    Where a spec augments, the sheet has a sample a row: as it is, then what training draws of it.

    Example: netc data show digits -o digits.png
    """
    from netc_runtime.data import open_source
    from netc_runtime.data.describe import describe
    from netc_runtime.errors import DriverError

    name, data, size = _data_of(what, overrides)
    source = drive(lambda: open_source(data, size))
    description = drive(lambda: describe(source))
    usual = Path(f"{name}_samples.png")
    augmented = bool(data.get("augment"))
    sheet, refused = None, None
    with tempfile.TemporaryDirectory(prefix="netc-") as scratch:
        try:
            variants = _variants(what, overrides, source, Path(scratch)) if augmented else None
            sheet = _write_sheet(source, variants, out, usual)
        except DriverError as error:  # said below the numbers, which hold without a sheet
            refused = error
    for note in description.notes:
        warn(note)
    if as_json:
        print_json({"name": name, "source": data["source"], "sheet": sheet, **description.as_dict()})
    else:
        print(f"{name}: {description.lines()[0]}")
        print("\n".join(description.lines()[1:]))
    if refused is not None:
        fail(str(refused), int(refused.exit_code))
    if sheet is not None and not as_json:
        print(
            f"wrote {sheet}, {'samples and what augmentation makes of them' if augmented else 'samples of each class'}"
        )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A source that `netc data list` says can be fetched.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to fetch into; default the one where netc looks.")
    ] = None,
    mirror: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Another place of the files, tried before the known ones.")
    ] = None,
) -> None:
    """Fetch a data set, so that its source needs no path; a broken transfer is continued.

    Example: netc data fetch mnist
    """
    from netc_runtime.data.fetch import fetch as fetch_files
    from netc_runtime.data.folders import fetched_folder
    from netc_runtime.data.remotes import FETCHED

    if name not in FETCHED:
        raise UsageError(f'the source "{name}" cannot be fetched{did_you_mean(name, FETCHED)}')
    for url in mirror or []:
        if not url.startswith(("https://", "http://")):
            raise UsageError(f"--mirror {url}: an address that begins with https:// is needed")
    folder = to if to is not None else drive(lambda: fetched_folder(name))
    paths = drive(lambda: fetch_files(name, FETCHED[name], folder, mirror or [], _told()))
    print(f"{name} is in {folder}: {', '.join(path.name for path in paths)}")
    if to is not None:
        print(f"use it with: --set data.path={folder}")


def _data_of(what: str, overrides: list[str] | None) -> tuple[str, dict[str, Any], tuple[int, int] | None]:
    """Return a name for the data, their section, and the size of images that is needed: of a source, or of a spec."""
    from netc.arguments import spec_overrides
    from netc_runtime.data import SOURCES

    if what in SOURCES and not Path(what).is_file():
        return what, {"source": what, **data_of_source(overrides, what)}, None
    try:
        return data_of_spec(what, spec_overrides(overrides))
    except UsageError as error:
        if "/" in what or Path(what).suffix:
            raise
        raise UsageError(
            f'there is no data source, no file and no spec "{what}"{did_you_mean(what, SOURCES)}'
        ) from error


def _variants(what: str, overrides: list[str] | None, source: "Source", scratch: Path) -> "Variants":
    """Compile the spec and return what runs its augmentation; raises DriverError."""
    from netc.arguments import spec_overrides
    from netc_runtime.artifact import Artifact
    from netc_runtime.augmented import augmented_samples

    folder, _ = artifact_folder(what, spec_overrides(overrides), scratch, Device.CPU)
    return augmented_samples(Artifact.load(folder), source, _DRAWS)


def _write_sheet(source: "Source", variants: "Variants | None", out: Path | None, usual: Path) -> Path | None:
    """Write the contact sheet; samples that are no images, or no Pillow, matter only if a file was asked for.

    Raises DriverError.
    """
    from netc_runtime.data.sheet import contact_sheet
    from netc_runtime.errors import DriverError
    from netc_runtime.files import write_atomically

    try:
        content = contact_sheet(source, variants)
    except DriverError as error:
        if out is not None:
            raise
        warn(str(error))
        return None
    write_atomically(out or usual, content)
    return out or usual


def _told() -> Callable[[str, int, int], None]:
    """Return what says how far a transfer is: a line for each file, or each tenth of a large one."""
    said: dict[str, int] = {}

    def progress(name: str, done: int, size: int) -> None:
        tenth = 10 * done // size
        if said.get(name) == tenth or (size < 10_000_000 and done < size):
            return
        said[name] = tenth
        print(f"{name}  {done / 1e6:.1f} of {size / 1e6:.1f} MB", flush=True)

    return progress
