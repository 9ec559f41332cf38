"""Random numbers that are functions of keys, not of a generator's history.

A *key* is a whole number, a *stream* tells apart what is drawn with one key, and a *place* is the
number of an element. The same three give the same number alone or batched, under ``torch.func``,
on every device and under compilation.
"""

from optuna_esgd.draws.bits import keyed_bits
from optuna_esgd.draws.distributions import keyed_normal, keyed_uniform
from optuna_esgd.draws.normal_rows import PIECE, NormalRows, scaled_quantiles

__all__ = [
    "PIECE",
    "NormalRows",
    "keyed_bits",
    "keyed_normal",
    "keyed_uniform",
    "scaled_quantiles",
]
