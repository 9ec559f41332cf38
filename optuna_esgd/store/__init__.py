"""Store: keeps populations, their weights and their lineage, in SQL or in memory; no torch.

A *store* is where a study's population lives: plans, slots, individuals, and the bytes of their
weights. It implements ``engine.ports.Population`` twice: ``SqlPopulation`` in the study's own
database (SQLite, PostgreSQL, MySQL, MariaDB), ``MemoryPopulation`` for studies in memory. Faces
open one with ``opening.open_population`` and never see a table.
"""
