"""Tensors as bytes: the safetensors format, and nothing read is believed."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError, CorruptionError, EsgdError
from optuna_esgd.genome.codec import adopt, decode, decode_row, encode, encode_row
from optuna_esgd.genome.dtypes import NAMES
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from tests.genome.networks import CASES, Language, Mixed, assert_same_bits, filled_matrix


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    """Any type, any shape (0-dim and empty ones too), any bits, not always contiguous."""
    dtype = draw(st.sampled_from(sorted(NAMES, key=str)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    n_bytes = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    if dtype == torch.bool:
        content = bytes(byte % 2 for byte in content)
    if n_bytes == 0:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


state_dicts = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"), any_tensor(), max_size=6
)


def as_file(manifest: bytes, payload: bytes | bytearray | memoryview) -> bytes:
    return len(manifest).to_bytes(8, "little") + manifest + bytes(payload)


def split_file(content: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


@given(state_dicts, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_round_trip(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    manifest, payload = encode(tensors, metadata)
    decoded = decode(manifest, payload)
    assert decoded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(decoded[name], tensor)
    assert len(manifest) % 8 == 0


@given(state_dicts)
def test_equal_tensors_give_equal_bytes(tensors: dict[str, Tensor]) -> None:
    shuffled = dict(reversed(tensors.items()))
    assert encode(tensors) == encode(shuffled)


@given(state_dicts)
def test_tensors_are_aligned_to_their_element_size(tensors: dict[str, Tensor]) -> None:
    manifest, _ = encode(tensors)
    for name, entry in json.loads(manifest).items():
        assert entry["data_offsets"][0] % tensors[name].element_size() == 0


@given(state_dicts)
def test_safetensors_reads_what_we_write(tensors: dict[str, Tensor]) -> None:
    readable = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype != getattr(torch, "float8_e8m0fnu", None)  # known to the format only
    }
    loaded = safetensors.torch.load(as_file(*encode(readable, {"key": "value"})))
    assert loaded.keys() == readable.keys()
    for name, tensor in readable.items():
        assert_same_bits(loaded[name], tensor)


@given(state_dicts)
def test_we_read_what_safetensors_writes(tensors: dict[str, Tensor]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    written = safetensors.torch.save(contiguous, metadata={"key": "value"})
    decoded = decode(*split_file(written))
    assert decoded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(decoded[name], tensor)


def test_decoded_tensors_own_their_memory() -> None:
    manifest, payload = encode({"a": torch.ones(3), "b": torch.ones(3)})
    decoded = decode(manifest, payload)
    payload[:] = bytes(len(payload))
    decoded["a"].zero_()
    assert decoded["b"].eq(1).all()


@given(state_dicts)
def test_adopted_tensors_are_the_same_and_lie_in_the_payload(tensors: dict[str, Tensor]) -> None:
    manifest, payload = encode(tensors)
    adopted = adopt(manifest, payload)
    assert adopted.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(adopted[name], tensor)
    payload[:] = bytes(len(payload))
    for tensor in adopted.values():
        assert not tensor.contiguous().view(-1).view(torch.uint8).any()


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_adopted_is_copied() -> None:
    """Memory that must not be written to, and numbers between the places where numbers lie."""
    manifest, payload = encode({"a": torch.arange(3)})
    adopted = adopt(manifest, bytes(payload))
    adopted["a"].zero_()
    assert decode(manifest, payload)["a"].tolist() == [0, 1, 2]
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    content = bytearray(b"\7" + torch.ones(1).numpy().tobytes())
    assert adopt(json.dumps(header).encode(), content)["b"].item() == 1


@pytest.mark.parametrize("read", [adopt, decode])
def test_no_tensor_holds_other_booleans(read: Any) -> None:
    manifest, _ = encode({"a": torch.ones(8, dtype=torch.bool)})
    with pytest.raises(CorruptionError, match="neither 0 nor 1"):
        read(manifest, bytearray(b"\x01\x02" * 4))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_payloads_may_be_any_bytes(kind: type) -> None:
    manifest, payload = encode({"a": torch.arange(3)})
    assert decode(manifest, kind(bytes(payload)))["a"].tolist() == [0, 1, 2]


def test_views_gradients_and_conjugates_are_written_as_they_look() -> None:
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3))
    number = torch.tensor([1 + 2j], dtype=torch.complex64).conj()
    decoded = decode(*encode({"p": parameter.t(), "c": number}))
    assert decoded["p"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not decoded["p"].requires_grad
    assert decoded["c"].tolist() == [1 - 2j]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.zeros(2, dtype=torch.complex128)}, "only dense tensors of float64"),
        ({"a": torch.eye(2).to_sparse()}, "only dense"),
        ({"a": torch.zeros(2, device="meta")}, "meta device"),
        ({"a": [1.0]}, "must be a tensor, got list"),
        ({"__metadata__": torch.zeros(1)}, "cannot be called '__metadata__'"),
        ({1: torch.zeros(1)}, "cannot be called 1"),
        ({"\ud800": torch.zeros(1)}, "no valid Unicode"),
    ],
)
def test_encode_refuses(tensors: dict[Any, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        encode(tensors)


def manifest_with(**changes: object) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return json.dumps({"a": entry}).encode()


DAMAGED = {
    "not text": (b"\xff\xfe", "no safetensors header"),
    "not JSON": (b"{", "no safetensors header"),
    "nested without end": (b"[" * 100_000, "no safetensors header"),
    "a number with too many digits": (b"9" * 10_000, "no safetensors header"),
    "a list": (b"[]", "not an object"),
    "a name twice": (b'{"a":1,"a":2}', "appears twice"),
    "no tensor": (b'{"a":1}', "is no tensor"),
    "a field too many": (manifest_with(extra=1), "is no tensor"),
    "unknown type": (manifest_with(dtype="F31"), "unknown type 'F31'"),
    "type no text": (manifest_with(dtype=["F32"]), "unknown type"),
    "negative length": (manifest_with(shape=[-2]), "impossible shape"),
    "length no whole number": (manifest_with(shape=[2.0]), "impossible shape"),
    "length a truth value": (manifest_with(shape=[True, 2]), "impossible shape"),
    "length beyond memory": (manifest_with(shape=[0, 2**62]), "impossible shape"),
    "length beyond words": (manifest_with(shape=[0, 10**40]), "impossible shape"),
    "dimensions without end": (manifest_with(shape=[1] * 70 + [2]), "impossible shape"),
    "shape no list": (manifest_with(shape=2), "impossible shape"),
    "too few bytes": (manifest_with(data_offsets=[0, 4]), "needs 8 bytes"),
    "three offsets": (manifest_with(data_offsets=[0, 8, 8]), "needs 8 bytes"),
    "backwards": (manifest_with(data_offsets=[8, 0]), "needs 8 bytes"),
    "a hole": (manifest_with(data_offsets=[8, 16]), "should start at byte 0"),
    "payload too long": (manifest_with(shape=[1], data_offsets=[0, 4]), "has 8 bytes, .* 4"),
    "payload too short": (manifest_with(shape=[4], data_offsets=[0, 16]), "has 8 bytes, .* 16"),
    "neither true nor false": (manifest_with(dtype="BOOL", shape=[8]), "neither 0 nor 1"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_decode_refuses(case: str) -> None:
    manifest, words = DAMAGED[case]
    with pytest.raises(CorruptionError, match=words):
        decode(manifest, b"\x02" * 8)


def test_overlapping_tensors_are_refused() -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    manifest = json.dumps({"a": entry, "b": entry}).encode()
    with pytest.raises(CorruptionError, match="should start at byte 8"):
        decode(manifest, bytes(8))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
manifests = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.text(max_size=4),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from([*NAMES.values(), "X"]),
                "shape": st.lists(st.integers(-1, 2**70) | st.integers(0, 3), max_size=4),
                "data_offsets": st.lists(st.integers(0, 32), min_size=1, max_size=3),
            }
        ),
        max_size=3,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=300)
@given(manifests, st.binary(max_size=32))
def test_whatever_is_read_decodes_or_is_corrupt(manifest: bytes, payload: bytes) -> None:
    try:
        tensors = decode(manifest, payload)
    except CorruptionError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) == len(payload)


@given(st.data())
def test_a_damaged_byte_of_a_manifest_never_escapes(data: st.DataObject) -> None:
    manifest, payload = encode({"a.weight": torch.randn(2, 3), "b": torch.arange(3)})
    damaged = bytearray(manifest)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CorruptionError):
        decode(bytes(damaged), payload)


@pytest.mark.parametrize("name", CASES)
def test_row_round_trip(name: str) -> None:
    matrix = filled_matrix(CASES[name].build, 3)
    manifest, payload = encode_row(matrix, 1)
    other = filled_matrix(CASES[name].build, 3, seed=1)
    before = other.clone()
    decode_row(manifest, payload, other, 2)
    for key, block in other.blocks.items():
        assert_same_bits(block[2], matrix.blocks[key][1])
        assert_same_bits(block[:2], before.blocks[key][:2])
    for tensor_name, tensor in decode(manifest, payload).items():
        assert_same_bits(tensor, matrix.read_row(1)[tensor_name])


@pytest.mark.parametrize("name", CASES)
def test_safetensors_loads_a_row_into_a_model(name: str, tmp_path: Path) -> None:
    matrix = filled_matrix(CASES[name].build, 2)
    path = tmp_path / "model.safetensors"
    path.write_bytes(as_file(*encode_row(matrix, 1)))
    model, expected = CASES[name].build(), CASES[name].build()
    missing, unexpected = safetensors.torch.load_model(model, path)
    assert (missing, unexpected) == (set(), [])
    matrix.load_into(expected, 1)
    for ours, theirs in zip(
        model.state_dict().values(), expected.state_dict().values(), strict=True
    ):
        assert_same_bits(ours, theirs)


def test_the_row_manifest_names_tied_weights() -> None:
    manifest, _ = encode_row(filled_matrix(Language, 1), 0)
    assert json.loads(manifest)["__metadata__"] == {"output.weight": "embedding.weight"}


def test_rows_are_read_from_any_order_of_tensors() -> None:
    matrix = filled_matrix(Mixed, 1)
    other = Matrix.zeros(matrix.layout, 1)
    written = safetensors.torch.save(
        {name: tensor.clone() for name, tensor in matrix.read_row(0).items()}
    )
    decode_row(*split_file(written), other, 0)
    for key, block in matrix.blocks.items():
        assert_same_bits(block, other.blocks[key])


def test_the_row_of_another_model_is_refused() -> None:
    manifest, payload = encode_row(filled_matrix(Language, 1), 0)
    with pytest.raises(ConfigurationError, match="no tensor"):
        decode_row(manifest, payload, filled_matrix(Mixed, 1), 0)


def test_a_row_of_the_wrong_length_is_refused() -> None:
    matrix = filled_matrix(Mixed, 1)
    manifest, payload = encode_row(matrix, 0)
    with pytest.raises(CorruptionError, match="its manifest"):
        decode_row(manifest, payload[:-1], matrix, 0)


def test_a_row_with_damaged_booleans_is_refused() -> None:
    matrix = filled_matrix(Mixed, 1)
    manifest, payload = encode_row(matrix, 0)
    payload[-1] = 7  # the bool block comes last
    with pytest.raises(CorruptionError, match="neither 0 nor 1"):
        decode_row(manifest, payload, matrix, 0)


def test_equal_models_have_equal_manifests() -> None:
    assert encode_row(filled_matrix(Mixed, 1), 0)[0] == encode_row(filled_matrix(Mixed, 2), 1)[0]
    assert Layout.of(Mixed()) == Layout.of(Mixed())


def test_errors_are_of_the_package() -> None:
    assert issubclass(CorruptionError, EsgdError)
    assert issubclass(CorruptionError, OSError)
