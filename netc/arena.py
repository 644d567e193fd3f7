"""How much memory ONNX Runtime's arena takes for tensors that come and go.

The arena (core/framework/bfc_arena.cc, best fit with coalescing) asks the system for regions and cuts them into chunks.
The next region has twice the size of the last, up to 1 GiB, or the same where that grew for a large tensor. A tensor
gets the smallest free chunk that it fits in, which is cut only where at least half of it would be left; neighbours that
are free become one. What lies between living tensors, too small for the next one, is the difference to their sum.
Memory counts from when it is first written; a region is assumed to fill from its start.

Regions stay. Of two that are free and of one size, the later one is taken first, since systems place it below the
other; so a region that the first step needed at its end for a few bytes is filled by the second.
"""

import bisect

ALIGNMENT = 256
FIRST_REGION = 1 << 20
LARGEST_GROWTH = 1 << 30  # the sizes of regions double up to this
MOST_WASTE = 128 << 20  # a chunk is also cut where more than this would be left
_REGION_STRIDE = 1 << 48  # of made-up addresses, so that no two regions are neighbours


class Arena:
    """Chunks by address; that of region n begins at -(n + 1) * stride."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # of chunks, by address
        self._left: dict[int, int | None] = {}  # address of the chunk before, in one region
        self._free: list[tuple[int, int]] = []  # size and address, sorted: the first that fits is the best
        self._is_free: set[int] = set()
        self._next_region = FIRST_REGION
        self._written: list[int] = []  # bytes of each region

    @property
    def written(self) -> int:
        """Bytes that have ever been written."""
        return sum(self._written)

    def allocate(self, size: int) -> int:
        """Return the address of a chunk."""
        rounded = max(-(-size // ALIGNMENT), 1) * ALIGNMENT
        index = bisect.bisect_left(self._free, (rounded,))
        if index == len(self._free):
            self._add_region(rounded)
            index = bisect.bisect_left(self._free, (rounded,))
        found, address = self._free[index]
        self._take(address)
        if found >= 2 * rounded or found - rounded >= MOST_WASTE:
            self._sizes[address] = rounded
            self._insert(address + rounded, found - rounded, address)
        region, offset = -(address // _REGION_STRIDE) - 1, address % _REGION_STRIDE
        self._written[region] = max(self._written[region], offset + size)
        return address

    def release(self, address: int) -> None:
        """Free a chunk, and make it one with free neighbours."""
        size, left = self._sizes[address], self._left[address]
        right = address + size
        if right in self._is_free:
            size += self._sizes[right]
            self._take(right)
        if left is not None and left in self._is_free:
            self._take(left)
            size += self._sizes[left]
            address, left = left, self._left[left]
        self._insert(address, size, left)

    def _add_region(self, needed: int) -> None:
        grown = self._next_region
        while grown < needed:
            grown *= 2
        self._written.append(0)
        self._insert(-len(self._written) * _REGION_STRIDE, grown, None)
        self._next_region = min(2 * grown, LARGEST_GROWTH) if grown == self._next_region else grown

    def _insert(self, address: int, size: int, left: int | None) -> None:
        """Add a free chunk, and tell the one behind it."""
        self._sizes[address], self._left[address] = size, left
        if address + size in self._left:
            self._left[address + size] = address
        bisect.insort(self._free, (size, address))
        self._is_free.add(address)

    def _take(self, address: int) -> None:
        self._free.pop(bisect.bisect_left(self._free, (self._sizes[address], address)))
        self._is_free.remove(address)
