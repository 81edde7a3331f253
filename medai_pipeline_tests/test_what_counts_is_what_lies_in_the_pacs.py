"""Reviews, new revisions and other models change what counts: the PACS is told, once, and by whom. What is rejected never goes."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset

from medai_pipeline.local.ports import free_port
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.storage.arrivals import Arrivals
from medai_pipeline.storage.tables import arrivals as arrivals_table
from medai_pipeline.storage.tables import studies
from medai_pipeline_tests.conftest import missing
from medai_pipeline_tests.result_samples import Sample
from medai_pipeline_tests.returning_desk import KEY, Counter, again, results_in, storescp

pytest_plugins = ["medai_pipeline_tests.returning_desk"]

Results = Callable[[], list[Dataset]]


@pytest.fixture
def there(pacs: Orthanc, film: list[Dataset]) -> Results:
    return lambda: results_in(pacs, film)


def titled(found: Sequence[Dataset], code: str) -> list[Dataset]:
    """Key Object Selections with this title."""
    return [
        one for one in found if one.Modality == "KO" and one.ConceptNameCodeSequence[0].CodeValue == code
    ]  # fmt: skip


def rejections(found: Sequence[Dataset]) -> list[Dataset]:
    return titled(found, "113001")


def named_in(document: Dataset) -> set[str]:
    return {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in document.ContentSequence
            if "ReferencedSOPSequence" in item}  # fmt: skip


def words_of(document: Dataset) -> str:
    return " ".join(item.TextValue for item in document.ContentSequence if "TextValue" in item)


def reports_in(found: Sequence[Dataset]) -> list[Dataset]:
    return sorted((one for one in found if one.Modality == "SR"), key=lambda one: one.SOPInstanceUID)


def uids(found: Sequence[Dataset]) -> set[str]:
    return {str(one.SOPInstanceUID) for one in found}


def test_at_once_it_goes_once(counter: Counter, there: Results) -> None:
    (row,) = counter.go(counter.desk("orthanc"))
    assert row.state == "sent" and len(there()) == len(row.objects)
    assert counter.desk("orthanc").want() == []
    assert counter.go(counter.desk("orthanc")) == [row]
    assert counter.actions() == ["identity.read", "delivery.sent"]


def test_off_nothing_goes(counter: Counter, there: Results) -> None:
    assert counter.go(counter.desk("orthanc", "off")) == [] and there() == []


def test_after_review_nothing_goes_before_and_then_it_says_who_accepted_it(counter: Counter, there: Results) -> None:
    desk = counter.desk("orthanc", "after-review")
    report = counter.report()
    assert counter.go(desk) == [] and there() == []
    counter.review(report, "accepted")
    (row,) = counter.go(desk)
    assert row.state == "sent" and row.decision == "accepted"
    (document,) = reports_in(there())
    assert "Accepted by dr.reader on 2026-03-04." in words_of(document)
    assert document.VerificationFlag == "UNVERIFIED" and document.PreliminaryFlag == "PRELIMINARY"


def test_what_is_rejected_before_it_was_sent_never_goes(counter: Counter, there: Results) -> None:
    report = counter.report()
    at_once, later = counter.desk("orthanc"), counter.desk("orthanc", "after-review")
    at_once.want()  # due, but nothing was sent yet
    counter.review(report, "rejected")
    for desk in (at_once, later):
        (row,) = counter.go(desk)
        assert row.state == "dropped" and there() == []


def test_what_is_rejected_after_it_was_sent_is_taken_back_and_may_be_accepted_again(
    counter: Counter, there: Results
) -> None:
    report, desk = counter.report(), counter.desk("orthanc")
    counter.go(desk)
    sent = uids(there())
    counter.now += counter.desk("orthanc").policy.pause(1)
    counter.review(report, "rejected")
    (row,) = counter.go(desk)
    assert row.state == "sent" and row.withdrawal and len(row.objects) == 1
    (document,) = rejections(there())
    assert uids(there()) - sent == {document.SOPInstanceUID}
    assert named_in(document) == sent and "Rejected by dr.reader" in document.ContentSequence[1].TextValue
    assert counter.go(desk) == [row]
    counter.now += desk.policy.pause(1)
    counter.review(report, "accepted")
    (row,) = counter.go(desk)
    assert (row.state, row.edition, row.withdrawal) == ("sent", 3, False)
    assert not sent & {one["sop_instance_uid"] for one in row.objects}


def test_what_takes_a_result_back_goes_also_when_it_had_to_wait(counter: Counter, there: Results) -> None:
    """The sensor looks every few seconds, and a PACS may be away meanwhile: each look leaves it due."""
    report, desk = counter.report(), counter.desk("orthanc")
    counter.go(desk)
    counter.now += desk.policy.pause(1)
    counter.review(report, "rejected")
    for _ in range(3):
        desk.want()
    (row,) = counter.go(desk)
    assert row.state == "sent" and row.withdrawal and rejections(there())


def test_what_is_rejected_while_it_is_made_does_not_leave(counter: Counter, there: Results) -> None:
    """A person and the run at the same time: the last look is when the bytes are ready to go."""
    report, desk = counter.report(), counter.desk("orthanc")
    desk.want()

    def rejecting(*about: Any) -> Sequence[Any]:
        counter.review(report, "rejected")
        return counter.make(*about)

    (row,) = desk.deliver(KEY, rejecting, "run")
    assert (row.state, row.objects) == ("dropped", []) and there() == []
    assert desk.want() == [] and there() == []  # nothing to take back


def test_what_is_said_at_once_waits_when_the_site_wants_a_review_first_and_says_who_accepted_it(
    counter: Counter, there: Results
) -> None:
    report, later = counter.report(), counter.desk("orthanc", "after-review")
    counter.desk("orthanc").want()  # due, and nothing has left
    (row,) = later.deliver(KEY, counter.make, "run")  # as a run that was requested before
    assert (row.state, row.open, row.troubled) == ("pending", False, False) and "waits for a person" in row.reason
    assert counter.deliveries.retry("user:engineer", counter.now, [KEY])  # somebody is impatient
    (row,) = counter.go(later)
    assert later.due(10) == [] and not row.open and there() == [] and "identity.read" not in counter.actions()
    counter.now += later.policy.pause(1)
    counter.review(report, "accepted")
    (row,) = counter.go(later)
    assert (row.state, row.decision) == ("sent", "accepted")
    (document,) = reports_in(there())
    assert "Accepted by dr.reader on 2026-03-04." in words_of(document)


@pytest.mark.parametrize("freed_by", ["review", "setting"])
def test_what_lies_at_one_destination_and_was_due_at_another_waits_for_the_review_there_too(
    counter: Counter, there: Results, tmp_path: Path, freed_by: str
) -> None:
    report, port = counter.report(), free_port()
    to = f"orthanc,dicom://NODE@127.0.0.1:{port}"
    counter.go(counter.desk(to))
    counter.now += timedelta(hours=1)
    later = counter.desk(to, "after-review")
    with storescp(tmp_path / "node", port, "+xa"):
        rows = counter.go(later)
        assert sorted((row.state, row.open) for row in rows) == [("pending", False), ("sent", False)]
        assert not list((tmp_path / "node").iterdir())
        if freed_by == "review":
            counter.review(report, "accepted")
        rows = counter.go(later if freed_by == "review" else counter.desk(to))
        assert [(row.state, row.edition) for row in rows] == [("sent", 1)] * 2
    assert {path.name.partition(".")[2] for path in (tmp_path / "node").iterdir()} == uids(there())


def edited(sample: Sample) -> dict[str, Any]:
    """The first finding is not there, and the last one is."""
    content = copy.deepcopy(dict(sample.report.content))
    first, last = content["findings"][0], content["findings"][-1]
    assert first["present"] and not last["present"]
    first |= {"present": False, "regions": []}
    last["present"] = True
    content["priority"], content["reasons"] = "routine", ["Said by the reader."]
    return content


def test_what_an_edited_review_says_is_what_is_sent(counter: Counter, there: Results, tmp_path: Path) -> None:
    report, desk = counter.report(), counter.desk("orthanc", "after-review")
    content = edited(counter.sample)
    counter.review(report, "edited", content)
    (row,) = counter.go(desk)
    assert row.state == "sent", row.reason
    found = there()
    (document,) = reports_in(found)
    gone, new = content["findings"][0]["label"], content["findings"][-1]["label"]
    assert "Priority: routine" in words_of(document) and "Said by the reader." in words_of(document)
    changes = ", ".join(sorted((f"{gone} absent", f"{new} present")))
    assert f"Said by this person, not by the model: {changes}." in words_of(document)
    segments = [item.SegmentLabel for one in found if one.Modality == "SEG" for item in one.SegmentSequence]
    assert segments == [
        f"Attention: {row['label']}" for row in content["findings"] if row["present"] and row["regions"]
    ]
    assert not any(gone in str(one.get("DerivationDescription", "")) for one in found)
    assert all(errors(one, tmp_path) == [] for one in found)


def test_an_edit_that_says_only_what_was_changed_is_sent_as_the_whole_report(counter: Counter, there: Results) -> None:
    """As the study page and the API say it: which findings are present."""
    report, desk = counter.report(), counter.desk("orthanc", "after-review")
    whole = edited(counter.sample)
    findings = [{"label": row["label"], "present": row["present"]} for row in whole["findings"]]
    counter.review(report, "edited", {"findings": findings})
    (row,) = counter.go(desk)
    assert row.state == "sent", row.reason
    (document,) = reports_in(there())
    gone, new = whole["findings"][0]["label"], whole["findings"][-1]["label"]
    changes = ", ".join(sorted((f"{gone} absent", f"{new} present")))
    assert f"Said by this person, not by the model: {changes}." in words_of(document)


def test_a_result_rejected_before_it_was_sent_and_accepted_then_is_sent(counter: Counter, there: Results) -> None:
    report, desk = counter.report(), counter.desk("orthanc")
    desk.want()
    counter.review(report, "rejected")
    counter.go(desk)
    assert not there()
    counter.now += desk.policy.pause(1)
    counter.review(report, "accepted")
    (row,) = counter.go(desk)
    assert row.state == "sent" and there()


def test_nothing_goes_while_other_images_of_the_study_have_come(counter: Counter, there: Results) -> None:
    """They may be another patient's, whom the vault knows by now: what was said of the images before is not theirs."""
    counter.report()
    desk, arrivals = counter.desk("orthanc"), Arrivals(counter.engine)
    desk.want()
    arrivals.touch(KEY, "other images", 2, counter.now)
    (row,) = counter.go(desk)
    assert row.state == "pending" and not there()
    counter.now += desk.policy.pause(1)
    with counter.engine.begin() as connection:
        connection.execute(sa.update(arrivals_table).values(settled=True))
    (row,) = counter.go(desk)
    assert row.state == "sent" and there()


def test_a_newer_revision_that_failed_holds_the_results_of_the_one_before(counter: Counter, there: Results) -> None:
    counter.report()
    desk = counter.desk("orthanc")
    desk.want()
    with counter.engine.begin() as connection:
        connection.execute(
            sa.insert(studies).values(
                study_key=KEY, revision=2, source_digest="2", state="failed",
                first_seen_at=counter.now, ready_at=counter.now, updated_at=counter.now,
            )
        )  # fmt: skip
    (row,) = counter.go(desk)
    assert row.state == "pending" and not there()


def errors(dataset: Dataset, folder: Path) -> list[str]:
    if not shutil.which("dciodvfy"):
        missing("dciodvfy (Debian: dicom3tools)")
    dataset.save_as(folder / "one.dcm", enforce_file_format=True)
    said = subprocess.run(["dciodvfy", "-new", folder / "one.dcm"], capture_output=True, text=True, check=False)
    return [line for line in (said.stderr + said.stdout).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("wrong", ["nothing", "another study", "no findings", "unknown image"])
def test_an_edited_report_that_is_none_is_refused_with_a_reason(counter: Counter, there: Results, wrong: str) -> None:
    report, desk = counter.report(), counter.desk("orthanc", "after-review", attempts=1)
    content: dict[str, Any] | None = edited(counter.sample)
    assert content is not None
    if wrong == "nothing":
        content = None
    elif wrong == "another study":
        content["study_key"] = "ANOTHER"
    elif wrong == "no findings":
        del content["findings"]
    else:
        content["findings"][0]["images"] = ["2.25.1"]
    counter.review(report, "edited", content)
    (row,) = counter.go(desk)
    assert row.state == "failed" and "review it again" in row.reason and there() == []


def test_a_new_result_takes_back_the_one_before_and_names_it_as_its_predecessor(
    counter: Counter, there: Results, sample: Sample, tmp_path: Path
) -> None:
    desk = counter.desk("orthanc")
    first_report = counter.report()
    counter.go(desk)
    first = there()
    counter.now += desk.policy.pause(1)
    counter.report(again(sample, version="2", weights_sha256="cd" * 32))
    (row,) = counter.go(desk)
    assert (row.state, row.edition) == ("sent", 2), row.reason
    second = [one for one in there() if one.SOPInstanceUID not in uids(first)]
    (document,) = rejections(second)
    assert named_in(document) == uids(first)
    (report,) = reports_in(second)
    (before,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert before.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == reports_in(first)[0].SOPInstanceUID
    counter.now += desk.policy.pause(1)
    counter.sample = sample
    counter.counts(first_report)  # back to the older version: its report counts again
    (row,) = counter.go(desk)
    assert (row.state, row.edition) == ("sent", 3)
    third = [one for one in there() if one.SOPInstanceUID not in uids(first) | uids(second)]
    assert len(third) == len(first) + 1  # all anew: the objects that said this before were taken back
    (document,) = rejections(third)
    assert named_in(document) == uids(first) | uids(second) - uids(rejections(second))
    assert all(errors(one, tmp_path) == [] for one in third)


def test_a_result_that_never_left_is_dropped_and_not_taken_back(
    counter: Counter, there: Results, sample: Sample
) -> None:
    desk = counter.desk("orthanc")
    desk.want()
    counter.now += desk.policy.pause(1)
    counter.report(again(sample, version="2", weights_sha256="cd" * 32))
    (row,) = counter.go(desk)
    assert (row.state, row.edition) == ("sent", 2) and rejections(there()) == []
    assert [one.state for one in counter.deliveries.of_study(KEY)] == ["dropped", "sent"]


def test_a_new_destination_gets_what_counts_under_the_same_uids(
    counter: Counter, there: Results, tmp_path: Path
) -> None:
    counter.go(counter.desk("orthanc"))
    with storescp(tmp_path / "node", None, "+xa") as port:
        rows = counter.go(counter.desk(f"orthanc,dicom://NODE@127.0.0.1:{port}"))
    assert {row.state for row in rows} == {"sent"} and len(rows) == 2
    assert {path.name.partition(".")[2] for path in (tmp_path / "node").iterdir()} == uids(there())


def test_what_is_being_computed_again_waits_without_counting_as_a_try(
    counter: Counter, there: Results, sample: Sample
) -> None:
    counter.sample = again(sample, weights_sha256="ee" * 32)
    counter.sample.report = sample.report  # the report of before, the prediction of another version
    for _ in range(4):  # more often than a refusal would be tried
        (row,) = counter.go(counter.desk("orthanc"))
        assert row.state == "pending" and "computed again" in row.reason and there() == []
        assert (row.attempts, row.refusals, row.troubled) == (0, 0, False)
        counter.now = row.next_attempt_at
    counter.sample = sample
    (row,) = counter.go(counter.desk("orthanc"))
    assert row.state == "sent"


def test_what_is_older_than_the_site_wants_goes_only_when_asked_for(counter: Counter, there: Results) -> None:
    counter.now += counter.desk("orthanc").policy.pause(1)
    desk = counter.desk("orthanc", days=0.0)
    assert counter.go(desk) == [] and there() == []
    assert desk.want([KEY]) == [KEY]
    assert counter.go(desk)[0].state == "sent"
