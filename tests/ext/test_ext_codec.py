# SPDX-License-Identifier: MIT
"""The pickles that are written and read in C."""
import math
import pickle
import pickletools

import pytest
from hypothesis import example, given, strategies as st

INTS = [0, 1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**39, 2**63 - 1, -1, -128, -129,
        -32768, -2**31, -2**31 - 1, -2**39, -2**63]
PLAIN = [None, True, False, 0.0, -0.0, 1.5, math.inf, -math.inf, "", "a", "é", "\U0001f600", "\0",
         "x" * 255, "x" * 256, "x" * 1024, b"", b"\0", b"y" * 255, b"y" * 256, b"y" * 1024, *INTS]
FLAT = [[], (), [1], (1,), [1, 2], (1, 2), (1, 2, 3), (1, 2, 3, 4), [None] * 4000, (True,) * 4000,
        [[1], 2][:0], ["a"] * 3, list(range(1000)), (1.5, "a", b"b", None)]
OTHERS = [2**63, -2**63 - 1, 2**100, "x" * 1025, b"y" * 1025, "\ud800", {}, {1: 2}, set(), [[]],
          ((),), [1, [2]], (1, {}), [2**64], list(range(5000)), ["x" * 1000] * 9, 1j,
          range(3), bytearray(b"z")]


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or a != a != b != b)
    return a == b


@pytest.mark.parametrize("value", PLAIN + FLAT, ids=lambda v: repr(v)[:20])
def test_plain_values_are_encoded_and_decoded_without_pickle(ext, count, value):
    data = ext.encode(value, count.dumps)
    assert count.dumped == 0
    assert same(ext.decode(data, count.loads), value)
    assert count.loaded == 0


@pytest.mark.parametrize("value", PLAIN + FLAT, ids=lambda v: repr(v)[:20])
def test_every_encoding_is_a_valid_pickle_of_protocol_5(ext, count, value):
    data = ext.encode(value, count.dumps)
    assert same(pickle.loads(data), value)
    assert same(pickle._loads(data), value)
    pickletools.dis(data, out=open("/dev/null", "w"))
    assert data[:2] == b"\x80\x05" and len(data) <= 4096


@pytest.mark.parametrize("value", OTHERS, ids=lambda v: repr(v)[:20])
def test_all_else_goes_to_pickle(ext, count, value):
    data = ext.encode(value, count.dumps)
    assert count.dumped == 1
    assert data == pickle.dumps(value, 5)
    assert ext.decode(data, count.loads) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", PLAIN + FLAT + OTHERS, ids=lambda v: repr(v)[:20])
def test_what_pickle_wrote_is_decoded(ext, count, value, protocol):
    assert same(ext.decode(pickle.dumps(value, protocol), count.loads), value)


@pytest.mark.parametrize("value", PLAIN + [v for v in FLAT if "a" not in v[1:]],
                         ids=lambda v: repr(v)[:20])
def test_what_pickle_wrote_for_plain_values_is_decoded_in_c(ext, count, value):
    ext.decode(pickle.dumps(value, 5), count.loads)
    assert count.loaded == 0


def test_subclasses_keep_their_type(ext, count):
    for value in (MyInt(3), MyStr("a"), MyList([1]), MyTuple((1,))):
        assert type(ext.decode(ext.encode(value, count.dumps), count.loads)) is type(value)
    assert count.dumped == count.loaded == 4


class MyInt(int):
    pass


class MyStr(str):
    pass


class MyList(list):
    pass


class MyTuple(tuple):
    pass


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary())


@given(st.one_of(SCALARS, st.lists(SCALARS), st.lists(SCALARS).map(tuple),
                 st.lists(st.lists(SCALARS))))
def test_any_value_survives(ext, value):
    def dumps(obj):
        return pickle.dumps(obj, 5)
    data = ext.encode(value, dumps)
    assert same(pickle.loads(data), value)
    assert same(ext.decode(data, pickle.loads), value)
    assert same(ext.decode(dumps(value), pickle.loads), value)


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x80\x05", b"\x80\x05]", b"\x80\x05("]),
       st.sampled_from([b"", b".", b"t.", b"e.", b"a.", b"\x86."]))
@example(b"", b"\x80\x05", b".")
@example(b"K\x01", b"\x80\x05]", b"e.")
@example(b"\x8c\xff", b"\x80\x05", b".")
@example(b"X\xff\xff\xff\xff", b"\x80\x05", b".")
@example(b"\x95\x00\x00\x00\x00\x00\x00\x00\x00K\x01", b"\x80\x05", b".")
def test_damaged_bytes_are_left_to_pickle_or_mean_what_pickle_says(ext, body, head, tail):
    data = head + body + tail
    asked = []
    result = ext.decode(data, lambda view: asked.append(bytes(view)) or "left")
    if asked:
        assert result == "left" and asked == [data]
    else:
        assert same(pickle.loads(data), result)


def test_decode_takes_any_buffer_and_lets_loads_keep_it(ext):
    data = bytearray(pickle.dumps({"a": 1}))
    kept = ext.decode(data, lambda view: view)
    assert pickle.loads(kept) == {"a": 1}
    assert ext.decode(memoryview(ext.encode(5, None)), None) == 5


def test_errors_of_dumps_and_loads_come_out(ext):
    def bad(_):
        raise KeyError("no")
    with pytest.raises(KeyError):
        ext.encode({}, bad)
    with pytest.raises(KeyError):
        ext.decode(pickle.dumps({}), bad)
    with pytest.raises(TypeError, match="must return bytes"):
        ext.encode({}, lambda obj: "text")
    with pytest.raises(TypeError):
        ext.decode("text", bad)


def test_arguments_are_checked(ext):
    assert ext.encode(dumps=None, obj=1) == ext.encode(1, None) == ext.encode(1, dumps=None)
    for args, kwargs in [((), {}), ((1,), {}), ((1, 2, 3), {}), ((1, 2), {"obj": 1}),
                         ((1, 2), {"other": 1})]:
        with pytest.raises(TypeError):
            ext.encode(*args, **kwargs)
