"""What optimizers ask of the loss is counted, whoever writes the loop."""

from __future__ import annotations

import torch

from optuna_esgd.optim import as_closure
from optuna_esgd.trainer.spending import CountingClosure, Spending, counted
from tests.optim.functions import bowl, closure_of, parameter
from tests.optim.test_closure import Keyed


def test_what_optimizers_ask_is_counted() -> None:
    x = parameter(1.0)
    for ask, expected in (
        (lambda c: c(), Spending(1, 0)),
        (lambda c: c.loss(), Spending(0, 1)),
        (lambda c: c.advance(), Spending(0, 0)),
    ):
        spending = Spending()
        closure = Keyed(x, 3)
        counting = CountingClosure(closure, spending)
        ask(counting)
        assert spending == expected
        assert counting.key is closure.key
        assert len(closure.calls) == 1


def test_steps_are_counted_with_and_without_a_closure() -> None:
    x = parameter(1.0, -2.0)
    closure = closure_of(torch.optim.SGD([x]), lambda: bowl(x))
    optimizer = torch.optim.LBFGS([x], max_iter=1, max_eval=1)
    with counted(optimizer) as spending:
        optimizer.step(closure)
        optimizer.step(closure=closure)
    assert spending.n_gradients == 2
    plain = torch.optim.SGD([x], 0.1)
    with counted(plain, gradients_per_step=3) as spending:
        plain.step()
        plain.step()
        plain.step(closure)
    assert spending == Spending(7, 0)
    plain.step()
    assert spending == Spending(7, 0)


def test_a_function_that_is_asked_for_the_loss_alone_may_still_cost_a_gradient() -> None:
    spending = Spending()
    CountingClosure(as_closure(lambda: 1.0), spending).loss()
    assert spending == Spending(1, 0)
