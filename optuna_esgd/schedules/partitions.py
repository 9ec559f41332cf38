"""A deep network trained one partition at a time, each with a proxy head of its own.

After Bidart and Wong, "MonolithNet" (2018): proxy heads let one partition of a deep network be
trained in isolation. How the phases run and what the whole network answers is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError


class PartitionedTraining(nn.Module):
    """A chain of partitions, of which one trains at a time.

    In phase k the partitions before k run without gradients, partition k feeds its proxy head,
    and the loss of that head trains both; what comes after does not run. Everything else keeps
    its bits whatever the optimizer does, since its gradients are None (weight decay and momentum
    pass over it, too).

    With ``phase=None`` the answer is that of the last partition's head: the whole network. In
    evaluation mode that is always so, which makes fitness mean the same in every phase.

    To train by generation, set ``model.phase = epoch.generation % model.n_phases`` at the start
    of ``Task.train_epoch``.

    Args:
        partitions: In the order of the forward pass.
        heads: One proxy head per partition; the last one is the network's own.
        phase: Which partition trains, from 0; None for all at once.

    Raises:
        ConfigurationError: Not one head per partition, none at all, or a phase there is not.

    Attributes:
        n_phases: Number of partitions.
    """

    def __init__(
        self,
        partitions: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        phase: int | None = None,
    ) -> None:
        super().__init__()
        if not partitions or len(partitions) != len(heads):
            raise ConfigurationError(
                "Each partition needs one proxy head, and there must be at least one, got "
                f"{len(partitions)} partitions and {len(heads)} heads."
            )
        self.partitions = nn.ModuleList(partitions)
        self.heads = nn.ModuleList(heads)
        self.n_phases = len(partitions)
        self.phase = phase

    @property
    def phase(self) -> int | None:
        """Which partition trains; None for all at once."""
        return self._phase

    @phase.setter
    def phase(self, phase: int | None) -> None:
        if phase is not None and not 0 <= phase < self.n_phases:
            raise ConfigurationError(
                f"phase must be None or between 0 and {self.n_phases - 1}, got {phase}."
            )
        self._phase = phase

    def forward(self, inputs: Tensor) -> Tensor:
        """The answer of the phase's proxy head in training, of the whole network otherwise."""
        phase = self._phase if self.training else None
        if phase is None:
            for partition in self.partitions:
                inputs = partition(inputs)
            answer: Tensor = self.heads[-1](inputs)
            return answer
        with torch.no_grad():
            for partition in self.partitions[:phase]:
                inputs = partition(inputs)
        answer = self.heads[phase](self.partitions[phase](inputs))
        return answer  # noqa: RET504  (says that a module's answer is a tensor)

    def phase_parameters(self, phase: int) -> Iterator[nn.Parameter]:
        """What changes in a phase: the partition's parameters and its proxy head's."""
        yield from self.partitions[phase].parameters()
        yield from self.heads[phase].parameters()
