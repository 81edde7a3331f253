"""Batches of studies: all of them once, in order, within the limits of number and images."""

from hypothesis import given
from hypothesis import strategies as st

from medai_pipeline.stages import IMAGES_AT_ONCE, STUDIES_AT_ONCE, batches


@given(st.lists(st.integers(0, 2 * IMAGES_AT_ONCE), max_size=80))
def test_batches_hold_every_study_once_and_bound_memory(sizes):
    keys = [str(n) for n in range(len(sizes))]
    made = batches(keys, lambda key: sizes[int(key)])
    assert [key for batch in made for key in batch] == keys
    for batch in made:
        assert 1 <= len(batch) <= STUDIES_AT_ONCE
        assert len(batch) == 1 or sum(sizes[int(key)] for key in batch) <= IMAGES_AT_ONCE
