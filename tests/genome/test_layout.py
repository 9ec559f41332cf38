"""Which tensors a genome has, and where they lie."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.genome.layout import Layout
from tests.genome.networks import CASES, Language, Mixed


@pytest.mark.parametrize("name", CASES)
def test_holds_all_of_the_state_dict(name: str) -> None:
    model = CASES[name].build()
    layout = Layout.of(model)
    state = model.state_dict()
    assert {entry.name for entry in layout.entries} | set(layout.aliases) == set(state)
    for entry in layout.entries:
        assert entry.shape == state[entry.name].shape
        assert entry.dtype == state[entry.name].dtype
        assert entry.size == state[entry.name].numel()


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_filled_without_holes_trainable_first(name: str) -> None:
    layout = Layout.of(CASES[name].build())
    for block in layout.blocks:
        entries = sorted(
            (entry for entry in layout.entries if entry.dtype == block.dtype),
            key=lambda entry: (entry.offset, entry.size),
        )
        column = 0
        for entry in entries:
            assert entry.offset == column
            column += entry.size
        assert column == block.width
        kinds = [entry.kind for entry in entries if entry.size > 0]
        assert kinds == sorted(kinds, key=["parameter", "frozen", "buffer"].index)
        trainable = sum(entry.size for entry in entries if entry.kind == "parameter")
        assert trainable == block.n_trainable


def test_wide_elements_come_first_so_that_payloads_are_aligned() -> None:
    sizes = [block.dtype.itemsize for block in Layout.of(Mixed()).blocks]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 4  # float64, int64, float32, bool


def test_kinds() -> None:
    kinds = {entry.name: entry.kind for entry in Layout.of(CASES["convolutional"].build()).entries}
    assert kinds["features.0.weight"] == "parameter"
    assert kinds["projection.weight"] == "frozen"
    assert kinds["features.1.running_mean"] == "buffer"
    assert kinds["features.1.num_batches_tracked"] == "buffer"


def test_tied_weights_are_held_once() -> None:
    layout = Layout.of(Language())
    assert layout.aliases == {"output.weight": "embedding.weight"}
    assert "output.weight" not in {entry.name for entry in layout.entries}


def test_buffers_shared_between_modules_are_held_once() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[1].running_mean = model[0].running_mean
    assert Layout.of(model).aliases == {"1.running_mean": "0.running_mean"}


def test_a_module_used_twice_is_held_once() -> None:
    layer = nn.BatchNorm1d(2)
    layout = Layout.of(nn.Sequential(layer, layer))
    assert layout.aliases["1.weight"] == "0.weight"
    assert layout.aliases["1.running_var"] == "0.running_var"


def test_non_persistent_buffers_are_left_out() -> None:
    assert "scratch" not in {entry.name for entry in Layout.of(Mixed()).entries}


@pytest.mark.parametrize("name", CASES)
def test_json_round_trip(name: str) -> None:
    layout = Layout.of(CASES[name].build())
    text = layout.to_json()
    assert Layout.from_json(text) == layout
    assert hash(Layout.from_json(text)) == hash(layout)
    assert Layout.from_json(text).to_json() == text
    assert Layout.of(CASES[name].build()).to_json() == text


def test_json_tells_models_apart() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(2, 2)

    variants = [
        nn.Sequential(nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2, bias=False)),
        nn.Sequential(nn.Linear(2, 2).double()),
        nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(1, 1)),
        nn.Sequential(nn.Linear(2, 2), nn.Linear(1, 1)),
        Renamed(),
    ]
    assert len({Layout.of(model).to_json() for model in variants}) == len(variants)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tensors": [["w"]], "aliases": {}}', "null"])
def test_from_json_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not the text of a layout"):
        Layout.from_json(text)


def test_from_json_refuses_unknown_types() -> None:
    content = json.loads(Layout.of(nn.Linear(1, 1)).to_json())
    content["tensors"][0][2] = "F12"
    with pytest.raises(ConfigurationError, match="not the text of a layout"):
        Layout.from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Sequential(nn.Linear(3, 2, bias=False)), "'0.bias' is missing"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), "'1.weight' is unexpected"),
        (nn.Sequential(nn.Linear(4, 2)), r"'0.weight' is trainable F32\[2, 4\], not .*\[2, 3\]"),
        (nn.Sequential(nn.Linear(3, 2).half()), r"F16\[2, 3\], not trainable F32"),
    ],
)
def test_first_difference_names_the_tensor(other: nn.Module, words: str) -> None:
    layout = Layout.of(nn.Sequential(nn.Linear(3, 2)))
    difference = layout.first_difference(Layout.of(other))
    assert difference is not None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(difference)


def test_no_difference_between_equal_layouts() -> None:
    assert Layout.of(Mixed()).first_difference(Layout.of(Mixed())) is None


def test_first_difference_sees_ties() -> None:
    untied = Language()
    untied.output.weight = nn.Parameter(untied.output.weight.clone())
    difference = Layout.of(Language()).first_difference(Layout.of(untied))
    assert difference == "'output.weight' is unexpected"


class WithBuffer(nn.Linear):
    def __init__(self, buffer: torch.Tensor) -> None:
        super().__init__(2, 2)
        self.register_buffer("special", buffer)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.ReLU(), "no trainable parameters"),
        (nn.Linear(2, 2).requires_grad_(False), "no trainable parameters"),
        (nn.LazyLinear(2), "forward pass"),
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (nn.Linear(2, 2, dtype=torch.complex64), "complex"),
        (WithBuffer(torch.eye(2).to_sparse()), "only dense"),
        (WithBuffer(torch.zeros(2, dtype=torch.complex128)), "complex"),
        (torch.zeros(3), "Expected a torch.nn.Module"),
    ],
)
def test_refuses_what_cannot_be_evolved(model: nn.Module, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        Layout.of(model)


def test_flattened_gradients_lie_like_the_matrix() -> None:
    layout = Layout.of(Mixed())
    torch.manual_seed(0)
    tensors = {
        entry.name: torch.randn(3, *entry.shape, dtype=entry.dtype)
        for entry in layout.of_kind("parameter")
    }
    blocks = layout.flatten_trainable(tensors)
    widths = [block.n_trainable for block in layout.blocks if block.n_trainable]
    assert [tuple(block.shape) for block in blocks] == [(3, width) for width in widths]
    views = layout.unflatten_trainable(blocks)
    assert list(views) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(views[name], tensor)
