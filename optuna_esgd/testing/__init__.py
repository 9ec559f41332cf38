"""Testing: published tests of what this package asks of others; pytest is needed, nothing else.

A *contract* is a test class for everybody who implements a port. Subclass it, give it a fixture
that makes what is to be tested, and pytest runs the rest::

    class TestMyPopulation(PopulationContract):
        @pytest.fixture
        def population(self, configuration):
            return MyPopulation(configuration.to_json())
"""

from optuna_esgd.testing.population import PopulationContract

__all__ = ["PopulationContract"]
