"""Which item a sample number means: a pure function of (seed, number), so nothing has to be remembered to resume.

Sample numbers count through the whole training: number = (step * world + rank) * batch + position. Every epoch visits
every item once, in an order of its own.
"""

import numpy as np


class EpochSampler:
    """Item of a sample number: number // n is the epoch, and each epoch is a permutation drawn from (seed, epoch)."""

    def __init__(self, n_items: int, seed: int):
        assert n_items > 0
        self.n_items, self.seed = n_items, seed
        self._held = -1, np.empty(0, dtype=np.int64)

    def __call__(self, number: int) -> int:
        """The item, 0 <= item < n_items."""
        epoch, position = divmod(number, self.n_items)
        held, order = self._held  # one assignment, so that threads in different epochs never mix them up
        if held != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n_items)
            self._held = epoch, order
        return int(order[position])
