"""Dropout by key: the right rate, independent masks, and the same ones batched and row by row."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from optuna_esgd.genome.keyed_randomness import KeyedDropout

N = 200_000
TOLERANCE = 6 / math.sqrt(N)


def keyed(key: int, function: Callable[[], Tensor]) -> Tensor:
    with KeyedDropout(torch.tensor(key)):
        return function()


def masks(keys: list[int], n: int = N, p: float = 0.5) -> Tensor:
    """(keys, n) 1 where kept."""
    rows = [keyed(key, lambda: F.dropout(torch.ones(n), p)) for key in keys]
    return torch.stack(rows).ne(0).double()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1e-3])
def test_the_rate_and_the_mean(p: float) -> None:
    dropped = keyed(3, lambda: F.dropout(torch.ones(N), p))
    assert abs(dropped.ne(0).double().mean() - (1 - p)) < TOLERANCE
    assert abs(dropped.double().mean() - 1) < TOLERANCE * math.sqrt(p / (1 - p)) * 2
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}


def test_elements_are_independent() -> None:
    mask = masks([5], n=2**17)[0] * 2 - 1
    for lag in (1, 2, 3, 4, 8, 16, 32, 64, 100, 256, 1024, 4096, 2**16):
        assert abs((mask[lag:] * mask[:-lag]).mean()) < 6 / math.sqrt(len(mask) - lag), lag
    # And no more of any small pattern than there should be.
    patterns = mask.gt(0).view(-1, 8).long() @ (2 ** torch.arange(8))
    counts = torch.bincount(patterns, minlength=256).double()
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi_square < 255 + 6 * math.sqrt(2 * 255)


def test_neighbouring_keys_are_independent() -> None:
    base = 2**40 + 12345
    keys = [0, 1, 2, 3, base, base + 1, base + 2, base + 2**32, base + 2**33, -1, 2**63 - 1]
    correlations = torch.corrcoef(masks(keys))
    assert (correlations - torch.eye(len(keys))).abs().max() < TOLERANCE


def test_calls_of_one_pass_are_independent() -> None:
    def several() -> Tensor:
        return torch.stack([F.dropout(torch.ones(N)) for _ in range(6)])

    correlations = torch.corrcoef(keyed(1, several).ne(0).double())
    assert (correlations - torch.eye(6)).abs().max() < TOLERANCE


def test_a_call_is_not_the_next_keys_call() -> None:
    def two() -> Tensor:
        return torch.stack([F.dropout(torch.ones(N)) for _ in range(3)])

    rows = torch.cat([keyed(key, two) for key in range(4)]).ne(0).double()
    correlations = torch.corrcoef(rows)
    assert (correlations - torch.eye(len(rows))).abs().max() < TOLERANCE


@given(st.integers(-(2**63), 2**63 - 1), st.floats(0.01, 0.99))
def test_a_key_always_gives_the_same_mask(key: int, p: float) -> None:
    first = keyed(key, lambda: F.dropout(torch.ones(50), p))
    torch.rand(3)
    assert torch.equal(first, keyed(key, lambda: F.dropout(torch.ones(50), p)))


def test_the_global_generator_is_not_touched() -> None:
    state = torch.get_rng_state()
    keyed(0, lambda: F.dropout(torch.ones(10)))
    assert torch.equal(torch.get_rng_state(), state)


def test_counting_begins_anew_with_each_pass() -> None:
    mode = KeyedDropout(torch.tensor(4))
    passes = []
    for _ in range(2):
        with mode:
            passes.append((F.dropout(torch.ones(20)), F.dropout(torch.ones(20))))
    assert torch.equal(passes[0][0], passes[1][0])
    assert torch.equal(passes[0][1], passes[1][1])
    assert not torch.equal(passes[0][0], passes[0][1])


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "dropout": (F.dropout, (4, 3, 5), (4, 3, 5)),
    "dropout of a number": (F.dropout, (), ()),
    "dropout1d": (F.dropout1d, (4, 3, 5), (4, 3, 1)),
    "dropout1d without batch": (F.dropout1d, (3, 5), (3, 1)),
    "dropout2d": (F.dropout2d, (4, 3, 5, 2), (4, 3, 1, 1)),
    "dropout3d": (F.dropout3d, (4, 3, 5, 2, 2), (4, 3, 1, 1, 1)),
    "dropout3d without batch": (F.dropout3d, (3, 5, 2, 2), (3, 1, 1, 1)),
    "alpha_dropout": (F.alpha_dropout, (4, 3, 5), (4, 3, 5)),
    "feature_alpha_dropout": (F.feature_alpha_dropout, (4, 3, 5), (4, 3, 1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_masks_are_shared_as_torch_shares_them(name: str) -> None:
    function, shape, mask_shape = FUNCTIONS[name]
    inputs = torch.rand(shape) + 1
    changed = keyed(1, lambda: function(inputs, 0.5, True)) != inputs * (
        2 if "alpha" not in name else math.nan
    )
    if "alpha" in name:
        output = keyed(1, lambda: function(inputs, 0.5, True))
        changed = output < 0  # the saturation value, shifted
    assert torch.equal(changed, changed[tuple(slice(n) for n in mask_shape)].expand(shape))
    assert shape == () or (changed.any() and not changed.all())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_nothing_to_drop(name: str, p: float, training: bool) -> None:
    function, shape, _ = FUNCTIONS[name]
    inputs = torch.randn(shape)
    assert torch.equal(keyed(1, lambda: function(inputs, p, training)), inputs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_dropped(name: str) -> None:
    function, shape, _ = FUNCTIONS[name]
    inputs = torch.randn(shape)
    assert not keyed(1, lambda: function(inputs, 1.0, True)).any()
    torch.testing.assert_close(
        keyed(1, lambda: function(inputs, 1.0, True)), function(inputs, 1.0, True)
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_place(name: str) -> None:
    function, shape, _ = FUNCTIONS[name]
    inputs = torch.randn(shape)
    expected = keyed(1, lambda: function(inputs, 0.4, True))
    output = keyed(1, lambda: function(inputs, 0.4, True, True))
    assert output.data_ptr() == inputs.data_ptr()
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_probabilities_are_checked_as_torch_does(name: str, p: float) -> None:
    function, shape, _ = FUNCTIONS[name]
    with pytest.raises(ValueError, match="between 0 and 1"):
        keyed(1, lambda: function(torch.zeros(shape), p, True))


@pytest.mark.parametrize("function", [F.alpha_dropout, F.feature_alpha_dropout])
def test_alpha_dropout_keeps_mean_and_variance(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    output = keyed(2, lambda: function(torch.randn(500, 400, 1), 0.3, True))
    assert abs(output.mean()) < 2 * TOLERANCE
    assert abs(output.var() - 1) < 6 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    output = keyed(2, lambda: F.dropout(torch.ones(100, dtype=dtype), 0.5))
    assert output.dtype == dtype
    assert torch.equal(output.ne(0), keyed(2, lambda: F.dropout(torch.ones(100), 0.5)).ne(0))


def test_gradients_flow_where_elements_are_kept() -> None:
    inputs = torch.ones(100, requires_grad=True)
    output = keyed(1, lambda: F.dropout(inputs, 0.5))
    output.sum().backward()
    assert torch.equal(inputs.grad, output.detach())


KEYS = torch.tensor([3, 4, 2**62 + 1])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_sees_the_same_masks(name: str) -> None:
    function, shape, _ = FUNCTIONS[name]
    inputs = torch.randn(3, *shape)

    def one(row: Tensor, key: Tensor) -> Tensor:
        with KeyedDropout(key):
            return function(function(row, 0.3, True), 0.2, True)

    batched = torch.func.vmap(one)(inputs, KEYS)
    for row in range(3):
        torch.testing.assert_close(batched[row], one(inputs[row], KEYS[row]), rtol=0, atol=0)


def test_vmap_with_an_input_that_all_rows_share() -> None:
    def one(key: Tensor) -> Tensor:
        with KeyedDropout(key):
            return F.dropout(torch.ones(30), 0.5)

    batched = torch.func.vmap(one)(KEYS)
    assert torch.equal(batched, torch.stack([one(key) for key in KEYS]))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_layers_one_by_one(
    kind: type[nn.RNNBase], bidirectional: bool, packed: bool
) -> None:
    torch.manual_seed(0)
    network = kind(3, 4, 3, dropout=0.5, bidirectional=bidirectional, batch_first=not packed)
    network.train()
    inputs: object = torch.randn(5, 2, 3)
    if packed:
        inputs = nn.utils.rnn.pack_padded_sequence(inputs, [5, 4])

    def run() -> list[Tensor]:
        output, state = network(inputs)
        state = state if isinstance(state, tuple) else (state,)
        return [output.data if packed else output, *state]

    with KeyedDropout(torch.tensor(1)):
        first = run()
    with KeyedDropout(torch.tensor(1)):
        again = run()
    with KeyedDropout(torch.tensor(2)):
        other = run()
    for ours, theirs in zip(first, again, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first[0], other[0])
    network.eval()
    expected = run()
    with KeyedDropout(torch.tensor(1)):
        torch.testing.assert_close(run(), expected)
    # With hardly anything dropped all that is left to differ is the layer-by-layer computation.
    network.train()
    network.dropout = 1e-9
    with KeyedDropout(torch.tensor(1)):
        torch.testing.assert_close(run(), expected)
    assert [one.shape for one in first] == [one.shape for one in expected]


@pytest.mark.parametrize(
    ("is_causal", "mask"), [(True, None), (False, None), (False, "bool"), (False, "float")]
)
@pytest.mark.parametrize("enable_gqa", [False, True])
def test_attention_written_out_is_torchs(
    is_causal: bool, mask: str | None, enable_gqa: bool
) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 8)
    key, value = (torch.randn(2, 2 if enable_gqa else 4, 6, 8) for _ in range(2))
    attention_mask = None
    if mask == "bool":
        attention_mask = torch.rand(5, 6) > 0.3
        attention_mask[:, 0] = True
    elif mask == "float":
        attention_mask = torch.randn(5, 6)

    def attend(p: float) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, attention_mask, p, is_causal, scale=0.3, enable_gqa=enable_gqa
        )

    torch.testing.assert_close(keyed(1, lambda: attend(1e-9)), attend(0.0))
    torch.testing.assert_close(keyed(1, lambda: attend(0.0)), attend(0.0))
    assert not torch.equal(keyed(1, lambda: attend(0.5)), keyed(2, lambda: attend(0.5)))


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_inside_multi_head_attention(need_weights: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True)
    inputs = torch.randn(3, 4, 6)

    def attend() -> Tensor:
        return attention(inputs, inputs, inputs, need_weights=need_weights)[0]

    torch.manual_seed(1)
    first = keyed(1, attend)
    torch.manual_seed(2)
    assert torch.equal(first, keyed(1, attend))
    assert not torch.equal(first, keyed(2, attend))
    attention.dropout = 1e-9
    nearly = keyed(1, attend)
    attention.dropout = 0.0
    torch.testing.assert_close(nearly, attend())


def test_a_transformer_layer_has_no_other_randomness() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.3, batch_first=True).train()
    inputs = torch.randn(2, 4, 6)
    outputs = []
    for seed in range(2):
        torch.manual_seed(seed)
        outputs.append(keyed(1, lambda: layer(inputs)))
    assert torch.equal(*outputs)


def test_the_torch_function_itself() -> None:
    assert torch.equal(
        keyed(1, lambda: torch.dropout(torch.ones(20), 0.5, True)),
        keyed(1, lambda: F.dropout(torch.ones(20), 0.5)),
    )
