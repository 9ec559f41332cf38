"""The step of a cohort as one compiled function: gradients, and the update of each species.

There is one function for each size of cohort and batch. Which rows are of which species, and all
hyperparameters, are tensors: the function is the same from generation to generation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.batched_model import BatchedModel
from optuna_esgd.trainer.cohort_memory import CohortMemory, StepPlan
from optuna_esgd.trainer.compilation import Compiled, Function, compile_function
from optuna_esgd.trainer.supervised import SupervisedTask

_logger = logging.getLogger(__name__)

# A smaller batch at the end of an epoch of at least so many is not worth a function of its own.
_MANY_BATCHES = 20


class CompiledSteps:
    """The compiled steps of a task's cohorts.

    Args:
        task: Where the examples are from.
        model: The forward and backward pass.
        layout: The model's.
        species: By name.
        device: Where the cohorts are.

    Attributes:
        plan: What is computed.
    """

    def __init__(
        self,
        task: SupervisedTask,
        model: BatchedModel,
        layout: Layout,
        species: Mapping[str, Species],
        device: torch.device,
    ) -> None:
        self.plan = StepPlan(layout, species, device)
        self._task = task
        self._model = model
        self._device = device
        self._found: dict[tuple[int, int], Compiled | None] = {}
        self._has_failed = False

    def find(self, n_rows: int, batch_size: int) -> Function | None:
        """The step for these sizes, compiled now if need be.

        Returns:
            A function of ``CohortMemory.tensors``, (P, batch, ...) inputs and targets, and (P,)
            keys of dropout masks, which returns (P, 1) losses, and the gradients of each block if
            there are species without a rule. None where steps are to be taken eagerly.
        """
        key = n_rows, batch_size
        if key not in self._found:
            self._found[key] = self._compile(n_rows, batch_size)
        found = self._found[key]
        return None if found is None else found.call

    def _compile(self, n_rows: int, batch_size: int) -> Compiled | None:
        examples = self._task.train
        is_smaller = batch_size < min(examples.batch_size, len(examples))
        if self._has_failed or (is_smaller and examples.n_batches >= _MANY_BATCHES):
            return None
        weights = Matrix.zeros(self.plan.layout, n_rows, self._device)
        keys = torch.zeros(n_rows, dtype=torch.int64, device=self._device)
        compiled = compile_function(
            self._step,
            [
                *CohortMemory.allocate(self.plan, weights).tensors,
                *(
                    part[:1]
                    .expand(n_rows * batch_size, *part.shape[1:])
                    .reshape(n_rows, batch_size, *part.shape[1:])
                    .contiguous()
                    for part in examples.on(self._device)
                ),
                keys,
            ],
        )
        if isinstance(compiled, str):
            self._has_failed = True
            _logger.warning(
                "Cohorts train batched but not compiled, which may differ in rounding from "
                "workers that can compile: %s.",
                compiled,
            )
            return None
        _logger.info(
            "Compiled the step of %d networks on batches of %d in %.1f s.",
            n_rows,
            batch_size,
            compiled.seconds,
        )
        return compiled

    def _step(self, *tensors: Tensor) -> list[Tensor]:
        """One step of all rows; see ``find``."""
        memory = CohortMemory.of(self.plan, tensors[:-3])
        inputs, targets, keys = tensors[-3:]
        result, losses, advanced = self._model.pure_gradients(
            memory.views("parameter"),
            memory.views("frozen"),
            memory.views("buffer"),
            inputs,
            targets,
            keys,
        )
        gradients = self.plan.layout.flatten_trainable(result)
        memory.update(gradients)
        memory.advance_buffers(advanced)
        return [losses.unsqueeze(1), *(gradients if self.plan.has_others else [])]
