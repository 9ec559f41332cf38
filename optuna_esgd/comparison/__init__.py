"""Control arms: other methods on the same task, with the same seed and the same budget.

An *arm* is a method with a budget; a *run* is one arm with one seed. Every run gives the same
record (``runs.Run``), whoever trained: fitness on the validation set, scores on the test set, and
what was spent.
"""
