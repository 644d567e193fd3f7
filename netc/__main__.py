"""The command `netc`, and `python -m netc`: a signal is a sentence also while the command line is imported."""

from netc.stopping import stoppable


def main() -> None:
    """Import the command line, and run it."""
    with stoppable():
        from netc.cli import main as run

        run()


if __name__ == "__main__":
    main()
