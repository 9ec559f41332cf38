"""How often what nobody needs any more is cleared away."""

from __future__ import annotations

# A collection takes several transactions, however little there is to collect.
_MOST_GENERATIONS = 8
_MOST_BYTES = 32 * 2**20


def collection_interval(n_bytes: int, n_individuals: int) -> int:
    """How many generations go by between two collections: few if they take much room.

    Args:
        n_bytes: What one individual stores; 0 if that is not known.
        n_individuals: Who train in a generation.
    """
    if n_bytes == 0:
        return 1
    return max(1, min(_MOST_GENERATIONS, _MOST_BYTES // (n_bytes * n_individuals)))
