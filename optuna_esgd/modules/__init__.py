"""Modules: networks that evolution has something special to do with.

Pathway networks, whose paths are evolved and frozen; spiking networks, whose true gradient
vanishes. All are plain ``torch.nn`` modules.
"""

from optuna_esgd.evolution.paths import Path, mutate_path, random_path
from optuna_esgd.modules.pathways import PathwayNetwork
from optuna_esgd.modules.spiking import LIFLayer, SpikeFunction, spike
from optuna_esgd.modules.stdp import STDPRule

__all__ = [
    "LIFLayer",
    "Path",
    "PathwayNetwork",
    "STDPRule",
    "SpikeFunction",
    "mutate_path",
    "random_path",
    "spike",
]
