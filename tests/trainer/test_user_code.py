"""Where code of the user's has raised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optuna_esgd.trainer.user_code import in_words, place_of


def caught(function: Any) -> Exception:
    with pytest.raises(Exception) as error:  # noqa: PT011 - any is what this is about
        function()
    assert isinstance(error.value, Exception)
    return error.value


def test_the_last_line_of_the_user_s_is_named() -> None:
    def forward() -> torch.Tensor:
        return nn.Linear(2, 3)(torch.zeros(4))  # type: ignore[no-any-return]

    error = caught(forward)  # within torch
    number = forward.__code__.co_firstlineno + 1
    assert place_of(error) == f"{__file__}, line {number}, in forward,"


def test_an_error_in_words_is_as_at_the_end_of_a_traceback() -> None:
    assert in_words(ValueError("wrong")) == "ValueError: wrong"
    assert in_words(ValueError()) == "ValueError"
