"""What a sampler is told, and what it does to the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optuna_esgd.errors import TaskError
from optuna_esgd.sampling import OddballSampler
from optuna_esgd.trainer.examples import ExampleSet
from optuna_esgd.trainer.task import Epoch
from optuna_esgd.trainer.training_batches import SampledBatches, TrainingBatches, example_losses
from tests.trainer.models import MODELS, examples

EPOCH = Epoch(generation=0, individual=0, number=0, seed=7)
EXAMPLES = ExampleSet.of(examples("mlp"), 8, "train")
INPUTS, TARGETS = examples("mlp")
LOSS = nn.functional.cross_entropy


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["mlp"][0]()


def errors_of(model: nn.Module) -> Tensor:
    return LOSS(model(INPUTS), TARGETS, reduction="none").detach()


def test_the_sampler_knows_every_error_before_the_first_batch() -> None:
    sampler, model = OddballSampler(24, 8, floor=1e-9), make_model()
    SampledBatches(EXAMPLES, LOSS, EPOCH, sampler).measure_errors(model, batch_size=10)
    errors = errors_of(model).double()
    torch.testing.assert_close(sampler.probabilities(), errors / errors.sum())


def test_the_loss_is_weighed_by_the_probabilities_the_batch_was_drawn_with() -> None:
    generator = torch.Generator().manual_seed(0)
    sampler = OddballSampler(24, 8, importance_weights=True, generator=generator)
    model = make_model()
    batches = SampledBatches(EXAMPLES, LOSS, EPOCH, sampler)
    batches.measure_errors(model, batch_size=24)
    assert len(batches) == 3
    for inputs, targets in batches.lap(0):
        before = sampler.probabilities()
        losses = LOSS(model(inputs), targets, reduction="none")
        places = [int((one == INPUTS).all(1).nonzero()[0]) for one in inputs]
        expected = (losses / (24 * before[places])).mean()
        torch.testing.assert_close(batches.loss(model(inputs), targets), expected.float())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        batches.loss(model(inputs), targets)  # the sampler learns the errors of now
        shares = sampler.probabilities()[places] / sampler.probabilities()[places[0]]
        errors = errors_of(model)[places].double()
        torch.testing.assert_close(shares, (errors + 1e-3) / (errors[0] + 1e-3))


def test_a_sampler_that_wants_no_errors_gets_the_plain_loss() -> None:
    batches = SampledBatches(EXAMPLES, LOSS, EPOCH, [[1, 2], [3, 3]])
    model = make_model()
    batches.measure_errors(model, batch_size=8)
    found = [
        (inputs, float(batches.loss(model(inputs), targets).detach()))
        for inputs, targets in batches.lap(0)
    ]
    for (inputs, loss), indices in zip(found, ([1, 2], [3, 3]), strict=True):
        assert torch.equal(inputs, INPUTS[indices])
        assert loss == float(LOSS(model(INPUTS[indices]), TARGETS[indices]).detach())


def test_by_default_everyone_comes_once() -> None:
    batches = TrainingBatches(EXAMPLES, LOSS, EPOCH)
    seen = torch.cat([inputs for inputs, _ in batches.lap(0)])
    assert len(batches) == 3
    assert torch.equal(seen.sort(0).values, INPUTS.sort(0).values)


@pytest.mark.parametrize("loss", [nn.functional.cross_entropy, nn.CrossEntropyLoss()])
def test_losses_of_each_example(loss: Any) -> None:
    outputs = make_model()(INPUTS)
    expected = nn.functional.cross_entropy(outputs, TARGETS, reduction="none")
    torch.testing.assert_close(example_losses(loss, outputs, TARGETS), expected)


def test_outputs_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(TaskError, match="loss of each example"):
        example_losses(lambda outputs, targets: outputs[0].sum(), [INPUTS], TARGETS)
