"""torch's dropout functions, and those that have dropout inside, with a given source of masks.

Each function here takes ``draw`` and then exactly what the torch function of the same name takes.
``draw(shape, like, p)`` returns booleans of this shape on the device of ``like``, each true with
probability 1 - p.
"""

# ruff: noqa: A002  (torch calls these arguments so, and its callers may too)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own abbreviation)
from torch import Tensor

Draw: TypeAlias = Callable[[Sequence[int], Tensor, float], Tensor]
Replacement: TypeAlias = Callable[..., Any]

# SELU's negative saturation value, -scale * alpha (Klambauer et al. 2017, section 2).
_SELU_LIMIT = -1.7580993408473766


def _dropout(
    draw: Draw, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    F.dropout(input, p, training=False)  # torch's own checks
    return _zero_out(draw, input.shape, input, p, training=training, inplace=inplace)


def _channel_dropout(function: Callable[..., Tensor], unbatched_dim: int | None) -> Replacement:
    """Dropout of whole channels; inputs of ``unbatched_dim`` dimensions have no batch."""

    def dropout(
        draw: Draw, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        function(input, p, training=False)
        n_leading = 1 if input.dim() == unbatched_dim else 2
        shape = _leading(input.shape, n_leading)
        return _zero_out(draw, shape, input, p, training=training, inplace=inplace)

    return dropout


def _zero_out(
    draw: Draw, shape: Sequence[int], input: Tensor, p: float, *, training: bool, inplace: bool
) -> Tensor:
    if not training or p == 0:
        return input
    factor = draw(shape, input, p).to(input.dtype) * (0.0 if p == 1 else 1 / (1 - p))
    return input.mul_(factor) if inplace else input * factor


def _alpha_dropout(
    draw: Draw, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    F.alpha_dropout(input, p, training=False)
    return _saturate(draw, input.shape, input, p, training=training, inplace=inplace)


def _feature_alpha_dropout(
    draw: Draw, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    F.feature_alpha_dropout(input, p, training=False)
    shape = _leading(input.shape, 2)
    return _saturate(draw, shape, input, p, training=training, inplace=inplace)


def _saturate(
    draw: Draw, shape: Sequence[int], input: Tensor, p: float, *, training: bool, inplace: bool
) -> Tensor:
    """Set dropped elements to SELU's limit and keep mean 0 and variance 1.

    a·(x·mask + α'·(1 - mask)) + b with a = ((1 - p)(1 + p·α'²))^-½ and b = -a·p·α' (Klambauer et
    al. 2017, section "New Dropout Technique").
    """
    if not training or p == 0:
        return input
    if p == 1:
        return input.mul_(0.0) if inplace else input * 0.0
    mask = draw(shape, input, p).to(input.dtype)
    a = ((1 - p) * (1 + p * _SELU_LIMIT**2)) ** -0.5
    shift = (1 - mask) * (a * _SELU_LIMIT) - a * p * _SELU_LIMIT
    return input.mul_(mask * a).add_(shift) if inplace else input * (mask * a) + shift


def _leading(shape: Sequence[int], n_leading: int) -> list[int]:
    """The shape of a mask that is shared along all but the leading dimensions."""
    return [*shape[:n_leading], *(1 for _ in shape[n_leading:])]


def _plain_dropout(draw: Draw, input: Tensor, p: float, train: bool) -> Tensor:
    return _dropout(draw, input, p, train)


def _scaled_dot_product_attention(  # noqa: PLR0913, PLR0917  (torch's signature)
    draw: Draw,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As torch documents it; with dropout the attention weights have to be written out."""
    if dropout_p == 0:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * factor
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _dropout(draw, scores.softmax(-1), dropout_p) @ value


def _multi_head_attention_forward(draw: Draw, *args: Any, **kwargs: Any) -> Any:
    """Torch's own function, which looks up the names of what it calls here instead of there."""
    original: Any = F.multi_head_attention_forward
    replaced = {
        "dropout": partial(_dropout, draw),
        "scaled_dot_product_attention": partial(_scaled_dot_product_attention, draw),
    }
    rewired = FunctionType(
        original.__code__,
        {**original.__globals__, **replaced},
        original.__name__,
        original.__defaults__,
        original.__closure__,
    )
    rewired.__kwdefaults__ = original.__kwdefaults__
    return rewired(*args, **kwargs)


def _recurrent(function: Callable[..., Any]) -> Replacement:
    """LSTM, GRU or RNN, one layer at a time with dropout between them.

    torch passes (input, state, weights, ...) or, for packed sequences, (input, batch sizes, state,
    weights, ...); then has_biases, num_layers, dropout, train, bidirectional [, batch_first].
    """

    def recurrent(draw: Draw, *args: Any) -> Any:
        n_inputs = 1 if isinstance(args[3], bool) else 2
        state, weights, has_biases, n_layers, p, train, bidirectional = args[n_inputs:][:7]
        if not (train and p > 0 and n_layers > 1):
            return function(*args)
        values, batch_sizes, rest = args[0], args[1:n_inputs], args[n_inputs + 7 :]
        states = state if isinstance(state, tuple | list) else (state,)
        n_directions = 2 if bidirectional else 1
        n_weights = len(weights) // n_layers
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(n_layers):
            here = slice(layer * n_directions, (layer + 1) * n_directions)
            start = tuple(one[here] for one in states)
            values, *end = function(
                values if layer == 0 else _dropout(draw, values, p),
                *batch_sizes,
                start if isinstance(state, tuple | list) else start[0],
                weights[layer * n_weights : (layer + 1) * n_weights],
                has_biases,
                1,
                0.0,
                train,
                bidirectional,
                *rest,
            )
            ends.append(tuple(end))
        return (values, *(torch.cat(parts) for parts in zip(*ends, strict=True)))

    return recurrent


KEYED: dict[Callable[..., Any], Replacement] = {
    F.dropout: _dropout,
    F.dropout1d: _channel_dropout(F.dropout1d, unbatched_dim=2),
    F.dropout2d: _channel_dropout(F.dropout2d, unbatched_dim=None),
    F.dropout3d: _channel_dropout(F.dropout3d, unbatched_dim=4),
    F.alpha_dropout: _alpha_dropout,
    F.feature_alpha_dropout: _feature_alpha_dropout,
    F.scaled_dot_product_attention: _scaled_dot_product_attention,
    F.multi_head_attention_forward: _multi_head_attention_forward,
    torch.dropout: _plain_dropout,
    torch.lstm: _recurrent(torch.lstm),
    torch.gru: _recurrent(torch.gru),
    torch.rnn_tanh: _recurrent(torch.rnn_tanh),
    torch.rnn_relu: _recurrent(torch.rnn_relu),
}
