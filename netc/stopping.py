"""SIGINT and SIGTERM before and after training, which handles them itself: a sentence and the exit code of a shell."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_USUAL = (signal.default_int_handler, signal.SIG_DFL)  # what Python does with SIGINT, and with SIGTERM


class StoppedError(BaseException):
    """A signal; no `Exception`, and no KeyboardInterrupt, which libraries catch."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number
        self.remedy = "run it again"


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a signal end what is inside, with its own cleaning up, in a sentence and 130 or 143.

    A second one ends the process at once. What somebody else handles, or a shell has ignored, stays so.
    """
    is_main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
    ours = {number: handler for number, handler in found.items() if handler in _USUAL}

    stopped: list[StoppedError] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
        stopped.append(StoppedError(signal.Signals(number)))
        raise stopped[0]

    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    except BaseException:
        # Whatever ends this is the signal's doing: modules in C make ImportErrors of what ends their imports.
        for error in stopped:
            with suppress(OSError):  # nobody may listen any more; the exit code says it too
                print(f"error: stopped by {error} before the command was done; {error.remedy}", file=sys.stderr)
            raise SystemExit(128 + error.number) from None
        raise
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


@contextmanager
def remedied(remedy: str) -> Iterator[None]:
    """Let the sentence of a signal that ends what is inside say what to do then, instead of running it all again."""
    try:
        yield
    except StoppedError as error:
        error.remedy = remedy
        raise
