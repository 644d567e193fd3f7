"""The command line: a thin shell around compiler and driver."""

from typing import Annotated

import typer

from netc import __version__
from netc.commands import data, doctor, export, runs, specs, timing, tuning
from netc.commands.common import fail
from netc.errors import EnvironmentProblem, NetcError
from netc.stopping import stoppable

app = typer.Typer(
    name="netc",
    help="Compile a neural network declared in YAML into ONNX programs that train it; train, evaluate and export it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; every foreseen error, and every signal, ends in one sentence and its exit code."""
    with stoppable():
        try:
            app(prog_name="netc")
        except NetcError as error:
            fail(str(error), error.exit_code)
        except OSError as error:  # of a path that not even its existence can be asked of
            path = str(error.filename)
            path = path if len(path) <= 100 else f"{path[:40]}... ({len(path)} characters)"
            fail(f"cannot access {path}: {error.strerror}; check the path", EnvironmentProblem.exit_code)
        except MemoryError:
            fail("there is not enough memory for this network; make it smaller", EnvironmentProblem.exit_code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"netc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


app.command("check")(specs.check)
app.command("compile")(specs.compile_)
app.command("specs")(specs.specs_)
app.command("schema")(specs.schema)
app.command("train")(runs.train)
app.command("eval")(runs.eval_)
app.command("export")(export.export)
app.command("predict")(runs.predict)
app.command("time")(timing.time_)
app.command("tune")(tuning.tune)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")


if __name__ == "__main__":
    main()
