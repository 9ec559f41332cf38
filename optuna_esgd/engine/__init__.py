"""Engine: decides and plans; pure. Facts in, actions out; no torch, Optuna or SQL.

``decide(facts, configuration)`` reads what is committed and says what a worker should do next. A
``Plan`` is data, computed from committed facts and the counter-based random streams and stored
under a unique key: whoever loses the race to store it reads the winner's identical one.
"""
