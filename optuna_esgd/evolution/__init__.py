"""Evolution: how survivors, parents and hyperparameters are drawn. Pure NumPy, no state.

A *generation* is one SGD step of all individuals followed by one evolution step. Everything here
minimises: lower fitness is better, ``inf`` marks a diverged individual (``clean_fitness`` maps
NaN and infinities of either sign there).
"""
