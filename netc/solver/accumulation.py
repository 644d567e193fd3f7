"""Gradient accumulation: `iter_size` runs of the training program, each on a batch of its own, make one update.

The sums so far and the number of batches in them are state, so that a run can be stopped after any batch. Every run
computes the update and takes it only in the last of `iter_size` runs: a static graph without control flow.
"""

import numpy as np
import onnx_ir as ir

from netc.graph import Origin
from netc.layers.context import Context, StateTensor


class Accumulation:
    """Selects between an update and waiting for more batches; for one batch an update everything passes unchanged."""

    def __init__(self, net: Context, size: int) -> None:
        self._net, self._size = net, size
        self.last: ir.Value | None = None  # whether the update happens in this run, bool []; None: in every run
        if size > 1:
            g, done = net.g, net.micro_batch()
            with g.origin(Origin("solver", "update")), g.arithmetic():
                self.last = g.Equal(done, g.constant(np.array(size - 1, np.int64)))
                net.updates[str(done.name)] = g.Where(self.last, g.constant(np.array(0, np.int64)), done + 1)

    def mean(self, tensor: StateTensor, dw: ir.Value) -> ir.Value:
        """Return the mean gradient of the batches so far: in the last of them, that of the update."""
        if self.last is None:
            return dw
        g, name = self._net.g, f"{tensor.name}/accumulated"
        with g.origin(Origin(tensor.layer, "update")), g.arithmetic():
            total = self._net.slot(tensor, "accumulated") + dw
            self._net.updates[name] = g.Where(self.last, self._net.zero(), total)
            return total / float(self._size)

    def select(self, new: ir.Value, old: ir.Value) -> ir.Value:
        """Return `new` where the update happens, else `old`."""
        return new if self.last is None else self._net.g.Where(self.last, new, old)
