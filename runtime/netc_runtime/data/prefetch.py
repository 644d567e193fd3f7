"""What a thread computes ahead of the loop that takes it, in order and never far ahead."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""How many results are ahead of the one that is in use."""


class Prefetch(Generic[T]):
    """The results of `compute` for the numbers below `end`, each computed in a thread before it is taken.

    `compute` runs for one number after another. Taking another number than the next one starts anew from there.
    """

    def __init__(self, compute: Callable[[int], T], end: int) -> None:
        self._compute, self._end = compute, end
        self._waiting: deque[tuple[int, Future[T]]] = deque()
        self._executor: ThreadPoolExecutor | None = None

    def take(self, number: int) -> T:
        """Return the result for a number; raises what `compute` raised."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "netc-prefetch")
        if not self._waiting or self._waiting[0][0] != number:
            self._drop()
        first = self._waiting[-1][0] + 1 if self._waiting else number
        for following in range(first, min(number + DEPTH + 1, self._end)):
            self._waiting.append((following, self._executor.submit(self._compute, following)))
        _, result = self._waiting.popleft()
        return result.result()

    def close(self) -> None:
        """End the thread, once it is through with what it has begun."""
        self._drop()
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _drop(self) -> None:
        for _, result in self._waiting:
            result.cancel()
        self._waiting.clear()
