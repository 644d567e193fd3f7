"""The commands about specs: check, compile, specs, schema."""

from pathlib import Path
from typing import Annotated

import typer

from netc.commands.common import (
    BatchOption,
    JsonOption,
    SetOption,
    SpecArgument,
    Target,
    compile_spec,
    print_json,
    summarize_spec,
)
from netc.errors import SpecError


def check(
    spec: SpecArgument,
    overrides: SetOption = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Say what a training step holds on the CPU; builds its program.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a spec and list its layers.

    Example: netc check lenet_dsn --set layers.conv1.num_output=32
    """
    from netc.arguments import spec_overrides

    try:
        summary = summarize_spec(spec, spec_overrides(overrides), memory)
    except SpecError as error:
        if as_json:
            places = [{**vars(d.position), "message": d.message} for d in error.diagnostics]
            print_json({"ok": False, "errors": places})
            raise SystemExit(error.exit_code) from None
        raise
    if as_json:
        print_json({"ok": True, **summary.as_dict()})
    else:
        summary.print()


def compile_(
    spec: SpecArgument,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder to write; default build/NAME.")] = None,
    target: Annotated[
        Target | None, typer.Option(help="Engine to choose lowerings for; default cpu, or that of an ARTIFACT.")
    ] = None,
    batch_size: BatchOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a spec into ONNX programs.

    Example: netc compile lenet_dsn -o build/lenet_dsn
    """
    from netc.arguments import spec_overrides, target_of, tuning_of
    from netc.emit import write
    from netc.rewrite.lowerings import Lowerings

    engine = target.value if target is not None else target_of(Path(spec)) or "cpu"
    tuning = tuning_of(Path(spec)) if target is None or target.value == target_of(Path(spec)) else None
    lowerings = Lowerings(tuning["lowerings"]) if tuning else None
    artifact = compile_spec(spec, spec_overrides(overrides, batch_size), engine, False, lowerings, tuning)
    folder = out or Path("build") / artifact.spec.name
    write(artifact, folder)
    nodes = {name: program.graph.num_nodes() for name, program in artifact.programs.items()}
    if as_json:
        print_json({"out": folder, "name": artifact.spec.name, "target": engine, "nodes": nodes})
        return
    listed = ", ".join(f"{name}.onnx {count} nodes" for name, count in nodes.items())
    print(f"compiled {artifact.spec.name} to {folder}: {listed}")


def specs_(as_json: JsonOption = False) -> None:
    """List the zoo: the specs that ship with netc, usable by name.

    Example: netc specs
    """
    from netc import zoo

    if as_json:
        print_json([{"name": name, "summary": zoo.summary(name)} for name in zoo.names()])
        return
    width = max(map(len, zoo.names()))
    for name in zoo.names():
        print(f"{name:<{width}}  {zoo.summary(name)}")


def schema(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default stdout.")] = None,
) -> None:
    """Print the JSON Schema of the language, with which editors complete and check specs.

    Example: netc schema -o netc.schema.json
    """
    from netc.schema import text

    if out is None:
        print(text(), end="")
    else:
        out.write_text(text(), encoding="utf-8")
