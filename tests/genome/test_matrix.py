"""The population matrix: rows own their memory, and models see views."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from tests.genome.networks import CASES, Language, Mixed, assert_same_bits, filled_matrix


def storages(tensors: list[torch.Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


@pytest.mark.parametrize("name", CASES)
def test_load_into_gives_back_what_take_from_took(name: str) -> None:
    torch.manual_seed(0)
    first, second = CASES[name].build(), CASES[name].build()
    matrix = Matrix.zeros(Layout.of(first), 3)
    matrix.take_from(first, 1)
    matrix.load_into(second, 1)
    for ours, theirs in zip(
        second.state_dict().values(), first.state_dict().values(), strict=True
    ):
        assert_same_bits(ours, theirs)
    assert not any(block[[0, 2]].any() for block in matrix.blocks.values())


def test_loading_keeps_the_models_tensors_and_ties() -> None:
    model = Language()
    weight = model.embedding.weight
    filled_matrix(Language, 2).load_into(model, 1)
    assert model.output.weight is model.embedding.weight is weight
    assert weight.requires_grad


def test_rows_begin_at_cache_lines() -> None:
    matrix = filled_matrix(Mixed, 3)
    for block in matrix.blocks.values():
        assert block.stride(0) * block.element_size() % 64 == 0
        assert block.data_ptr() % 64 == 0


def test_views_are_the_blocks_memory() -> None:
    matrix = filled_matrix(Mixed, 3)
    views = [*matrix.parameters().values(), *matrix.frozen().values(), *matrix.buffers().values()]
    assert storages(views) == storages(list(matrix.blocks.values()))
    matrix.parameters()["head.weight"][2].fill_(7.0)
    matrix.buffers()["norm.num_batches_tracked"][1] = 9
    assert matrix.read_row(2)["head.weight"].eq(7.0).all()
    assert matrix.read_row(1)["norm.num_batches_tracked"] == 9
    assert not matrix.read_row(0)["head.weight"].eq(7.0).any()


def test_views_are_sorted_by_kind() -> None:
    matrix = filled_matrix(CASES["convolutional"].build, 2)
    assert set(matrix.frozen()) == {"projection.weight", "projection.bias"}
    assert "head.weight" in matrix.parameters()
    assert set(matrix.buffers()) == {
        "features.1.running_mean",
        "features.1.running_var",
        "features.1.num_batches_tracked",
    }
    assert matrix.parameters()["features.0.weight"].shape == (2, 4, 2, 3, 3)


def test_trainable_columns_hold_exactly_the_parameters() -> None:
    matrix = filled_matrix(Mixed, 2)
    for block in matrix.trainable():
        block.fill_(7.0)
    assert all(view.eq(7.0).all() for view in matrix.parameters().values())
    others = [*matrix.frozen().values(), *matrix.buffers().values()]
    assert not any(view.eq(7.0).any() for view in others)
    assert [block.dtype for block in matrix.trainable()] == [torch.float64, torch.float32]


def test_copies_share_no_memory() -> None:
    matrix = filled_matrix(Mixed, 3)
    copy = matrix.clone()
    assert not storages(list(matrix.blocks.values())) & storages(list(copy.blocks.values()))
    for key, block in matrix.blocks.items():
        assert_same_bits(block, copy.blocks[key])
    copy.copy_rows(matrix, [0, 0], [1, 2])
    copy.parameters()["head.weight"][1].zero_()
    assert copy.read_row(2)["head.weight"].any()
    assert matrix.read_row(0)["head.weight"].any()


@given(st.lists(st.integers(0, 4), min_size=0, max_size=5), st.randoms(use_true_random=False))
def test_copy_rows_reads_everything_before_it_writes(sources: list[int], random: object) -> None:
    matrix = filled_matrix(Mixed, 5)
    before = matrix.clone()
    targets = list(range(5))
    random.shuffle(targets)  # type: ignore[attr-defined]
    targets = targets[: len(sources)]
    matrix.copy_rows(matrix, sources, targets)
    expected = {row: row for row in range(5)} | dict(zip(targets, sources, strict=True))
    for row, source in expected.items():
        for key, block in matrix.blocks.items():
            assert_same_bits(block[row], before.blocks[key][source])


def test_copy_rows_moves_bits_that_are_no_numbers() -> None:
    matrix = filled_matrix(Mixed, 2)
    payload = torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32)
    matrix.parameters()["head.weight"][0] = payload
    matrix.copy_rows(matrix, [0], [1])
    assert_same_bits(matrix.read_row(1)["head.weight"], matrix.read_row(0)["head.weight"])


@pytest.mark.parametrize(
    ("sources", "targets", "words"),
    [
        ([0], [1, 2], "needs one source row"),
        ([0, 1], [2, 2], "needs one source row"),
        ([3], [0], "no row 3"),
        ([0], [-1], "no row -1"),
    ],
)
def test_copy_rows_refuses(sources: list[int], targets: list[int], words: str) -> None:
    matrix = filled_matrix(Mixed, 3)
    with pytest.raises(ConfigurationError, match=words):
        matrix.copy_rows(matrix, sources, targets)


def test_matrices_of_other_models_are_refused() -> None:
    matrix, other = filled_matrix(Mixed, 2), filled_matrix(Language, 2)
    with pytest.raises(ConfigurationError, match="one layout"):
        matrix.copy_rows(other, [0], [0])
    with pytest.raises(ConfigurationError, match="one layout"):
        matrix.copy_(other)
    with pytest.raises(ConfigurationError, match="one layout"):
        matrix.restore(other, torch.tensor([True, False]))
    with pytest.raises(TaskError, match="built alike"):
        matrix.load_into(Language(), 0)
    with pytest.raises(TaskError, match="built alike"):
        matrix.take_from(Mixed().half(), 0)


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_restore_copies_the_rows_of_the_mask(mask: list[bool]) -> None:
    matrix, kept = filled_matrix(Mixed, 4, seed=1), filled_matrix(Mixed, 4, seed=2)
    kept.parameters()["head.bias"].fill_(float("nan"))
    before = matrix.clone()
    matrix.restore(kept, torch.tensor(mask))
    for row, is_restored in enumerate(mask):
        source = kept if is_restored else before
        for key, block in matrix.blocks.items():
            assert_same_bits(block[row], source.blocks[key][row])


def test_restore_and_copy_refuse_what_does_not_fit() -> None:
    matrix = filled_matrix(Mixed, 2)
    with pytest.raises(ConfigurationError, match="2 booleans"):
        matrix.restore(matrix.clone(), torch.tensor([1, 0]))
    with pytest.raises(ConfigurationError, match="2 booleans"):
        matrix.restore(matrix.clone(), torch.tensor([True]))
    with pytest.raises(ConfigurationError, match="2 rows, got 3"):
        matrix.restore(filled_matrix(Mixed, 3), torch.tensor([True, False]))
    with pytest.raises(ConfigurationError, match="2 rows, got 3"):
        matrix.copy_(filled_matrix(Mixed, 3))


def test_write_row_takes_a_state_dict_with_its_aliases() -> None:
    torch.manual_seed(3)
    model = Language()
    matrix = Matrix.zeros(Layout.of(model), 2)
    matrix.write_row(1, model.state_dict())
    for name, tensor in matrix.read_row(1).items():
        assert_same_bits(tensor, model.state_dict()[name])


def test_write_row_takes_an_alias_in_place_of_the_name() -> None:
    model = Language()
    state = model.state_dict()
    del state["embedding.weight"]
    matrix = Matrix.zeros(Layout.of(model), 1)
    matrix.write_row(0, state)
    assert torch.equal(matrix.read_row(0)["embedding.weight"], model.embedding.weight)


def test_write_row_converts_precision() -> None:
    model = nn.Linear(3, 2)
    matrix = Matrix.zeros(Layout.of(model), 1)
    matrix.write_row(0, {name: value.double() for name, value in model.state_dict().items()})
    assert torch.equal(matrix.read_row(0)["weight"], model.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": None}, "No tensor 'bias'"),
        ({"weigth": torch.zeros(2, 3)}, "no tensor 'weigth'"),
        ({"weight": torch.zeros(3, 2)}, r"must be torch.float32 \[2, 3\]"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int64)}, "got torch.int64"),
    ],
)
def test_write_row_refuses_and_leaves_the_row(change: dict[str, object], words: str) -> None:
    matrix = filled_matrix(lambda: nn.Linear(3, 2), 1)
    before = matrix.clone()
    tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2), **change}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(ConfigurationError, match=words):
        matrix.write_row(0, tensors)
    for key, block in matrix.blocks.items():
        assert_same_bits(block, before.blocks[key])


def test_sizes() -> None:
    matrix = filled_matrix(lambda: nn.Linear(3, 2), 5)
    assert matrix.n_rows == 5
    assert matrix.n_bytes == 5 * 8 * 4
    assert matrix.device == torch.device("cpu")


def test_no_rows() -> None:
    matrix = Matrix.zeros(Layout.of(Mixed()), 0)
    assert matrix.n_rows == 0
    assert matrix.parameters()["head.weight"].shape == (0, 3, 6)
    assert matrix.clone().n_rows == 0
    matrix.copy_rows(filled_matrix(Mixed, 1), [], [])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "uint16", "uint64"])
def test_rows_of_any_type_are_copied(dtype: str) -> None:
    class Odd(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            odd = torch.randint(256, (16,), dtype=torch.uint8).view(getattr(torch, dtype))
            self.register_buffer("odd", odd)

    matrix = filled_matrix(Odd, 3)
    before = matrix.clone()
    matrix.copy_rows(matrix, [2], [0])
    matrix.restore(before, torch.tensor([False, True, False]))
    assert_same_bits(matrix.read_row(0)["odd"], before.read_row(2)["odd"])


def test_rows_side_by_side_are_a_view() -> None:
    matrix = filled_matrix(Mixed, 4)
    middle = matrix.rows(range(1, 3))
    assert (middle.n_rows, middle.layout) == (2, matrix.layout)
    for name, view in middle.parameters().items():
        assert_same_bits(view, matrix.parameters()[name][1:3])
    for block in middle.trainable():
        block.fill_(7)
    assert all(block[1:3].eq(7).all() for block in matrix.trainable())
    assert not any(block[[0, 3]].eq(7).all() for block in matrix.trainable())
