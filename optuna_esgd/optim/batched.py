"""Rules that take one gradient at the weights as they are: those of most optimizers."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from torch import Tensor

from optuna_esgd.optim.rule import Evaluation, Part, Rule, State


class BatchedUpdate(Rule):
    """A rule that is a function of one gradient; the same numbers as ``torch.optim``'s.

    Such species share the backward pass of a cohort. State has the names ``torch.optim`` uses.
    """

    @property
    def takes_ready_gradients(self) -> bool:
        """That is what such a rule is."""
        return True

    def advance(self, index: int, part: Part, evaluation: Evaluation) -> None:
        """One update."""
        del index
        assert evaluation.gradients is not None  # noqa: S101  (the rule uses gradients)
        self.step(part.parameters, evaluation.gradients, part.state, part.hyperparameters)

    @abc.abstractmethod
    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """Update all rows in place.

        Args:
            parameters: (R, d), changed in place.
            gradients: (R, d), left alone.
            state: From ``init_state``, changed in place.
            hyperparameters: name -> (R, 1), as ``Species.columns`` makes them.
        """
