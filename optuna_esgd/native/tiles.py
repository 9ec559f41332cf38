"""C text of matrix products that keep a tile of the result in registers.

A tile is R rows of V vectors: out[r, :] = start + sum over k of a[r, k] * b[k, :], k in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Tile:
    """A function of its own in C.

    Attributes:
        name: Of the function.
        n_rows: R.
        n_vectors: V.
        row_step: From a[r, k] to a[r + 1, k].
        sum_step: From a[r, k] to a[r, k + 1].
        b_step: From b[k] to b[k + 1].
        out_step: From out[r] to out[r + 1].
        start: What the sum begins with: a number for each row, nothing, or, where the function is
            told to, what is there already.
        n_last: Numbers that count in the last vector; 0 for all.
    """

    name: str
    n_rows: int
    n_vectors: int
    row_step: int
    sum_step: int
    b_step: int
    out_step: int
    start: Literal["rows", "nothing", "present"]
    n_last: int = 0

    def source(self) -> str:
        """The function: (a, b, n terms, out, numbers of rows or whether to go on) -> nothing."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        rows, vectors = range(self.n_rows), range(self.n_vectors)
        extra = {
            "rows": ", const float *restrict numbers",
            "nothing": "",
            "present": ", int goes_on",
        }[self.start]
        yield (
            f"static __attribute__((noinline)) void {self.name}(const float *restrict a, "
            f"const float *restrict b, long n, float *restrict out{extra}) {{"
        )
        for row in rows:
            first = f"splat(numbers[{row}])" if self.start == "rows" else "splat(0.0f)"
            yield " ".join(f"  vector s{row}_{at} = {first};" for at in vectors)
        if self.start == "present":
            yield "  if (goes_on) {"
            for row in rows:
                for at in vectors:
                    yield f"    {self._load(row, at)}"
            yield "  }"
        yield "  for (long k = 0; k < n; k++) {"
        yield " ".join(f"    const vector b{at} = LOAD(b + {at} * LANES);" for at in vectors)
        yield "    vector f;"
        for row in rows:
            products = " ".join(f"s{row}_{at} += f * b{at};" for at in vectors)
            yield f"    f = splat(a[{row * self.row_step}]); {products}"
        yield f"    a += {self.sum_step}; b += {self.b_step};"
        yield "  }"
        for row in rows:
            for at in vectors:
                yield f"  {self._store(row, at)}"
        yield "}"

    def _is_short(self, at: int) -> bool:
        return self.n_last > 0 and at == self.n_vectors - 1

    def _load(self, row: int, at: int) -> str:
        place = f"out + {row * self.out_step} + {at} * LANES"
        if self._is_short(at):
            return f"memcpy(&s{row}_{at}, {place}, {4 * self.n_last});"
        return f"s{row}_{at} = LOAD({place});"

    def _store(self, row: int, at: int) -> str:
        place = f"out + {row * self.out_step} + {at} * LANES"
        if self._is_short(at):
            return f"memcpy({place}, &s{row}_{at}, {4 * self.n_last});"
        return f"STORE({place}, s{row}_{at});"


class Run(NamedTuple):
    """Tiles of one height that lie side by side.

    Attributes:
        start: First row.
        size: Rows of each.
        stop: The row after the last.
    """

    start: int
    size: int
    stop: int


def divide(n: int, most: int) -> list[Run]:
    """Cut n rows into tiles of nearly equal height, in one run or two."""
    n_tiles = -(-n // most)
    small, n_large = divmod(n, n_tiles)
    edge = n_large * (small + 1)
    return [Run(0, small + 1, edge)] * (n_large > 0) + [Run(edge, small, n)] * (edge < n)
