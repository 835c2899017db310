"""Reading arrays from bytes that come from anywhere: the array that NumPy wrote, or a refusal, in little memory."""

import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latte_cli.federated import npy

PLAIN = hnp.floating_dtypes(endianness="<") | hnp.integer_dtypes(endianness="<") | hnp.boolean_dtypes()
PLAIN |= hnp.unsigned_integer_dtypes(endianness="<")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def saved(array):
    data = BytesIO()
    np.save(data, array)
    return data.getvalue()


def with_header(text, payload=b""):
    encoded = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded + payload


def fields(descr="'<f4'", fortran="False", shape="(1,)", payload=b"1234"):
    return with_header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n", payload)


def read_or_none(data):
    """What is read; None for a refusal."""
    try:
        return npy.read_array(data)
    except ValueError:
        return None


def check_refused_or_right(data):
    found = read_or_none(data)
    if found is not None:
        wanted = np.load(BytesIO(data), allow_pickle=False)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        assert found.tobytes() == wanted.tobytes()
        assert found.nbytes <= len(data)


@given(hnp.arrays(PLAIN, SHAPES), st.booleans())
def test_what_numpy_writes_of_plain_numbers_comes_back(array, fortran):
    array = np.asfortranarray(array) if fortran else array
    found = npy.read_array(saved(array))
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert found.flags.writeable


DIMENSION = st.sampled_from(["0", "1", "2", "3", "-1", "00", "1_0", "1e1", "True", "4" * 9, "9" * 18, "9" * 400, "1L"])
LISTS = st.lists(DIMENSION, max_size=70)
SHAPE = st.one_of(
    LISTS.map(lambda parts: f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"),
    LISTS.map(lambda parts: f"[{','.join(parts)}]"),
    st.sampled_from(["(" * 9000, "(" + "-" * 9000 + "1,)", "()", "1", "((1,),)", "(1,) + (2,)", "None"]),
)
DESCR = st.sampled_from(
    [
        *("'<f4'", "'<f8'", "'>f4'", "'|b1'", "'<i8'", "'|O'", "'<U4'", "'<M8[s]'", "'<c8'", "'|V8'", "'f4'", "'<f3'"),
        *("4", "[('a', '<f4')]", "'<f4, <f4'", "('<f4', (1000000, 1000000))", "{'a': " * 3000),
    ]
)


@given(
    DESCR,
    st.sampled_from(["False", "True", "0", "None"]),
    SHAPE,
    st.sampled_from([0, 1, 4, 8, 12, 24, 48]) | st.integers(0, 64),
)
def test_a_made_up_header_is_refused_or_right(descr, fortran, shape, size):
    check_refused_or_right(fields(descr, fortran, shape, bytes(size)))


@given(
    st.sampled_from([saved(np.arange(6, dtype=np.float32).reshape(2, 3)), saved(np.array([1, 2]))]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(-40, 40),
)
def test_changed_bytes_are_refused_or_right(data, changes, longer):
    changed = bytearray(data[: len(data) + longer] + bytes(max(0, longer)))
    for at, byte in changes:
        changed[at % len(changed)] = byte
    check_refused_or_right(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_right(data):
    check_refused_or_right(data)
    check_refused_or_right(saved(np.zeros(3))[:10] + data)


@pytest.mark.parametrize(
    "data",
    [
        fields(shape="(1000000000000,)"),
        fields(shape="(" + ", ".join(["999999999999999999"] * 32) + ")"),
        fields(shape="(0, 999999999999999999, 999999999999999999)", payload=b""),
        fields(shape="(" + "-" * 9000 + "1,)"),
        fields(shape="(" * 60000),
        with_header("{" + "'a': 1, " * 6000 + "}\n"),
        b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{",
    ],
)
def test_no_memory_is_taken_for_what_the_bytes_do_not_hold(data):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            npy.read_array(data)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + 20_000
    finally:
        tracemalloc.stop()
