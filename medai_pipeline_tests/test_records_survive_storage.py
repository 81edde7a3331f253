"""A record that is stored and read again is the same record: arrays bit for bit, tuples, enums and nested records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medai_pipeline.errors import ObjectCorrupt
from medai_pipeline.records import Placement, Priority, Problem, StudyTensors, TensorItem, Triage
from medai_pipeline.storage.codec import decode, encode

ITEM = TensorItem("2.25.1", 3, Placement(10, 20, 0.5, 0.25, 1.0, 0.0), (0.7, 0.7))


@given(hnp.arrays(dtype=st.sampled_from(["float32", "uint8", "int16"]), shape=hnp.array_shapes(max_dims=4, max_side=5)))
def test_arrays_keep_their_type_shape_and_bits(pixels):
    tensors = StudyTensors("K", 1, "CT", "CHEST", "m", None, pixels, (ITEM, ITEM), (Problem("c", "r"),))
    again = decode(encode(tensors))
    assert again.pixels.dtype == pixels.dtype
    assert again.pixels.shape == pixels.shape
    assert again.pixels.tobytes() == pixels.tobytes()
    assert again.items == tensors.items
    assert again.problems == tensors.problems


@given(st.text(), st.booleans(), st.sampled_from(list(Priority)))
def test_text_and_enums_come_back_equal(text, flag, priority):
    triage = Triage(priority, (text, text), flag, "1")
    again = decode(encode(triage))
    assert again == triage
    assert isinstance(again.priority, Priority)


def test_what_is_not_a_record_is_refused():
    with pytest.raises(TypeError, match="not a record"):
        encode(Triage(Priority.NORMAL, (object(),), False, "1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"garbage", encode(ITEM)[:-40]])
def test_damaged_bytes_are_an_error_that_says_what_to_do(data):
    with pytest.raises(ObjectCorrupt, match="materialize its asset again"):
        decode(data)
