"""Genome: the weights of individuals as data, apart from the optimizers that train them.

A *genome* is everything of a network that is stored and inherited: its parameters and its
persistent buffers. A *layout* says which tensors of a model these are and where each of them lies
in a flat row; a *matrix* holds the genomes of a whole population, one row per individual; a
*codec* turns a row, or any named tensors, into bytes and back; *breeding* recombines rows into new
ones.
"""

from optuna_esgd.genome.breeding import breed
from optuna_esgd.genome.codec import decode, decode_row, encode, encode_row
from optuna_esgd.genome.keyed_randomness import KeyedDropout
from optuna_esgd.genome.layout import Block, Entry, Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.genome.statistics import has_running_statistics, reestimate_statistics

__all__ = [
    "Block",
    "Entry",
    "KeyedDropout",
    "Layout",
    "Matrix",
    "breed",
    "decode",
    "decode_row",
    "encode",
    "encode_row",
    "has_running_statistics",
    "reestimate_statistics",
]
