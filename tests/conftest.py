"""Settings of all tests."""

import torch

# Small tensors: one thread is faster than two on a shared machine, and sums keep their order.
torch.set_num_threads(1)
