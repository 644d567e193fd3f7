"""SIGINT and SIGTERM turned into errors, or into a request that the training loop honours between two steps."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from netc_runtime.errors import DriverError, ExitCode

_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class StopRequestedError(Exception):
    """Raised by `Interrupts.check` after a signal; caught by the training loop."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.name = number.name
        self.exit_code = _EXIT_CODES[number]


class _StoppedError(BaseException):
    """A signal that ends what runs; no `Exception`, so that nothing on the way takes it for a mistake of its own."""


class Interrupts:
    """While active, signals end what runs with a DriverError, except that one after `wait` is noted for `check` first.

    `remedy` gives the end of that error's sentence. Outside the main thread, where Python allows no handlers, nothing
    happens.
    """

    def __init__(self, remedy: Callable[[], str]) -> None:
        self._remedy = remedy
        self._waits = False
        self._requested: signal.Signals | None = None
        self._stopped: DriverError | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _EXIT_CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        # Whatever ends this is the signal's doing: modules in C make ImportErrors of what ends their imports.
        if self._stopped is not None and error is not None:
            raise self._stopped from None

    def wait(self) -> None:
        """Let signals wait for `check` from now on: there is something to save."""
        self._waits = True

    def check(self) -> None:
        """Raise StopRequestedError if a signal has come."""
        if self._requested is not None:
            raise StopRequestedError(self._requested)

    def _note(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if self._requested is not None:
            self._stop("at once by a second signal", received)
        self._requested = received
        if not self._waits:
            self._stop(f"by {received.name} before the first step", received)

    def _stop(self, how: str, received: signal.Signals) -> NoReturn:
        self._stopped = DriverError(f"stopped {how}; {self._remedy()}", _EXIT_CODES[received])
        raise _StoppedError
