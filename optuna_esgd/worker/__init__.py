"""Workers: the command line's way to train, on one machine or many.

A *worker* is a process that claims slots of a study's population, works them off, and shows what
it has finished as trials. Workers know nothing of each other: the database is all they share.
"""

from __future__ import annotations
