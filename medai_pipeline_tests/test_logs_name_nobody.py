"""Log lines: JSON with study key, run and stage; at DEBUG, too, no library says what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from medai_pipeline_tests.conftest import ROOT
from medai_pipeline_tests.orthanc import RunningOrthanc

MARKERS = ("ZZMARK^NAME", "ZZMARKID", "1.2.3.4.5.99999", "ZZMARKURL")


def logged(program: str, level: str = "DEBUG", form: str = "json", **environment: str) -> str:
    """What a process that sets up logging as a service does writes to its log."""
    whole = f"from medai_pipeline import logs\nlogs.configure({level!r}, {form!r})\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", whole],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_lines_are_json_with_study_run_and_stage_where_they_are_known() -> None:
    program = """
        import logging
        log = logging.getLogger("medai_pipeline.stages.prediction")
        with logs.about(study_key="A" * 26, run_id="r-1", stage="predictions"):
            log.warning("no weights for %s", "demo")
        log.info("done")
    """
    first, second = (json.loads(line) for line in logged(program).splitlines())
    assert {k: first[k] for k in ("event", "level", "logger", "study_key", "run_id", "stage")} == {
        "event": "no weights for demo",
        "level": "warning",
        "logger": "medai_pipeline.stages.prediction",
        "study_key": "A" * 26,
        "run_id": "r-1",
        "stage": "predictions",
    }
    assert first["timestamp"].endswith("Z") and "study_key" not in second
    text = logged(program, form="text")
    assert "no weights for demo" in text and "study_key=" + "A" * 26 in text
    assert "done" not in logged(program, level="WARNING")


def test_an_exception_is_kind_and_place_never_its_words() -> None:
    program = """
        import logging
        try:
            raise ValueError("ZZMARK^NAME is no number")
        except ValueError:
            logging.getLogger("medai_pipeline.x").exception("it failed")
    """
    (line,) = logged(program).splitlines()
    told = json.loads(line)
    assert told["error"] == "ValueError" and "<module>" in told["frames"] and "ZZMARK" not in line


def test_libraries_that_carry_identities_say_nothing_at_debug(orthanc: RunningOrthanc, tmp_path: Path) -> None:
    """Real clients over the wire with planted names: a REST client, a DICOM association with a query, SQL with parameters."""
    program = """
        import os, warnings
        import httpx, pydicom
        from pydicom.dataset import Dataset
        from pynetdicom import AE, debug_logger
        from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as FIND

        url, user, word = os.environ["O_URL"], os.environ["O_USER"], os.environ["O_WORD"]
        with httpx.Client(base_url=url, auth=(user, word)) as client:
            client.get("/studies/ZZMARKURL", params={"PatientName": "ZZMARK^NAME"})
            client.post("/tools/find", json={"Level": "Study", "Query": {"PatientID": "ZZMARKID"}})
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.PatientName, asked.PatientID = "STUDY", "ZZMARK^NAME", "ZZMARKID"
        asked.StudyInstanceUID = "1.2.3.4.5.99999"
        ae = AE(ae_title="ZZMARKAET")
        ae.add_requested_context(FIND)
        association = ae.associate("127.0.0.1", int(os.environ["O_DICOM"]))
        if association.is_established:
            list(association.send_c_find(asked, FIND))
            association.release()
        warnings.warn("Invalid value ZZMARK^NAME for VR UI")
        wrong = Dataset()
        wrong.StudyInstanceUID = "ZZMARKID is no UID"
        import sqlalchemy as sa
        with sa.create_engine("sqlite://").connect() as connection:
            connection.execute(sa.text("SELECT :name"), {"name": "ZZMARK^NAME"}).all()
        import logging
        logging.getLogger("medai_pipeline.here").debug("asked")
    """
    environment = {
        "O_URL": orthanc.url,
        "O_USER": orthanc.username,
        "O_WORD": orthanc.password,
        "O_DICOM": str(orthanc.dicom_port),
    }
    text = logged(program, **environment)
    assert "asked" in text
    assert [marker for marker in (*MARKERS, "ZZMARK") if marker in text] == []


def test_the_test_above_can_fail() -> None:
    """Without our levels the same client says what it asks for."""
    program = """
        import logging, httpx
        logging.getLogger("httpx").setLevel(logging.DEBUG)
        logging.getLogger("httpx").propagate = True
        try:
            httpx.get("http://127.0.0.1:1/ZZMARKURL")
        except httpx.ConnectError:
            pass
        httpx.Client(transport=httpx.MockTransport(lambda r: httpx.Response(200))).get("http://x/ZZMARKURL")
    """
    assert "ZZMARKURL" in logged(program)


def test_every_service_is_started_with_the_format_that_is_set() -> None:
    from medai_pipeline.local.paths import Home
    from medai_pipeline.local.services import Context, code_server, daemon
    from medai_pipeline.settings import read_settings

    settings = read_settings({"MEDAI_LOG_FORMAT": "json"})
    context = Context(settings, Home(settings.home_path), {})
    for service in (code_server(context), daemon(context)):
        assert service.command[service.command.index("--log-format") + 1] == "json"


def test_loading_the_definitions_quiets_the_libraries_in_the_code_server_and_the_worker() -> None:
    names = ["httpx", "httpcore.connection", "pynetdicom.events", "pydicom", "uvicorn.access", "py.warnings"]
    loud = (
        "import logging, medai_pipeline.definitions\n"
        f"print([name for name in {names} if logging.getLogger(name).isEnabledFor(logging.ERROR)])"
    )
    done = subprocess.run([sys.executable, "-c", loud], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
