"""A study is noticed in two steps: that it is there, and whose it is. A process killed between them stops nobody's intake."""

from __future__ import annotations

from medai_pipeline.phantoms.studies import make_study
from medai_pipeline_tests.pipeline import Pipeline


def test_a_study_whose_identity_was_never_kept_is_seen_anew_and_the_others_go_on(pipeline: Pipeline) -> None:
    cut, other = (make_study("chest-xray", seed, rows=64, columns=64) for seed in (7411, 7412))
    (key,) = pipeline.send(cut)
    services = pipeline.services
    found = services.pacs.find_study(str(cut.datasets[0].StudyInstanceUID))
    assert found
    services.lifecycle.touch(key, services.pacs.fingerprint(found), found.instance_count or 0, services.now())
    assert not services.vault.known([key])  # as after the kill
    (neighbour,) = pipeline.send(other)
    for _ in range(8):
        pipeline.requested(1)
    assert services.vault.known([key, neighbour]) == {key, neighbour}
    assert {row.study_key for row in services.lifecycle.active()} >= {key, neighbour}
