"""Ranges that the sensor requests: every wanted key once, never one that was not wanted, within the limit."""

from hypothesis import given
from hypothesis import strategies as st

from medai_pipeline.orchestration.partitions import contiguous


@given(st.integers(0, 40), st.integers(1, 8), st.data())
def test_ranges_cover_exactly_what_is_wanted(total, most, data):
    order = [f"k{n}" for n in range(total)]
    wanted = data.draw(st.lists(st.sampled_from(order), unique=True)) if order else []
    alone = data.draw(st.sets(st.sampled_from(wanted))) if wanted else set()
    groups = contiguous(wanted, order, most, alone)
    assert sorted(key for group in groups for key in group) == sorted(wanted)
    for group in groups:
        start, end = order.index(group[0]), order.index(group[-1])
        assert order[start : end + 1] == group
        assert len(group) <= most
        assert len(group) == 1 or not alone.intersection(group)


def test_keys_side_by_side_go_together():
    assert contiguous(["b", "a", "d"], ["a", "b", "c", "d"], 32) == [["a", "b"], ["d"]]


def test_a_study_that_killed_its_run_goes_alone():
    assert contiguous(["a", "b", "c"], ["a", "b", "c"], 32, {"b"}) == [["a"], ["b"], ["c"]]
