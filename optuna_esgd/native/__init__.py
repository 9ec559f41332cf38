"""Small networks as C: recognised, written out for their sizes, compiled, and called.

The words: a *chain* is a network whose layers follow one another; its *kernel* is the compiled
function that computes losses and gradients of many rows of weights, one row at a time, so that a
row's weights and activations stay in the nearest cache and its numbers do not depend on who else
is computed. *Lanes* are the numbers in one vector register.
"""
