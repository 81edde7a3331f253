"""`.env.example` lists every setting with its default and meaning; what cannot be read is an error that names it."""

import re
from pathlib import Path

import pytest

from medai_pipeline.errors import SettingsError
from medai_pipeline.local.stack import Stack
from medai_pipeline.settings import COLORMAPS, SETTINGS, Settings, read_settings

EXAMPLE = Path(__file__).resolve().parents[1] / ".env.example"
NOT_OURS = {"MEDAI_TEST_DATA", "MEDAI_URL", "MEDAI_TOKEN"}  # of the tests, and of the examples of the API


def test_the_example_file_is_the_table():
    lines = EXAMPLE.read_text().splitlines()
    for setting in SETTINGS:
        where = lines.index(f"{setting.variable}={setting.default}")
        assert lines[where - 1] == f"# {setting.meaning}"
    assert sum("=" in line and not line.startswith("#") for line in lines) == len(SETTINGS)


def test_every_setting_is_an_attribute():
    assert [s.attribute for s in SETTINGS] == list(Settings.__dataclass_fields__)


def test_the_defaults_of_the_example_file_are_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(EXAMPLE.read_text())
    assert read_settings() == read_settings({})


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MEDAI_WEB_PORT=4000\nMEDAI_CODE_PORT=4001\n")
    monkeypatch.setenv("MEDAI_WEB_PORT", "5000")
    settings = read_settings()
    assert (settings.web_port, settings.code_port) == (5000, 4001)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MEDAI_WEB_PORT", "high"),
        ("GPU_ENABLED", "perhaps"),
        ("GRADCAM_ALPHA", "2"),
        ("GRADCAM_ALPHA", "nan"),
        ("GRADCAM_COLORMAP", "mauve"),
        ("MEDAI_WORKERS", "0"),
        ("MEDAI_LOG_LEVEL", "CHATTY"),
        ("MEDAI_STABLE_SECONDS", "-1"),
        ("MEDAI_RECONCILE_SECONDS", "inf"),
        ("MEDAI_RETRY_SECONDS", "nan"),
        ("MEDAI_SENSOR_SECONDS", "0"),
        ("MEDAI_HISTORY_DAYS", "-1"),
        ("MEDAI_WEB_PORT", "0"),
        ("MEDAI_CODE_PORT", "65536"),
        ("MEDAI_ORTHANC_PORT", "-1"),
        ("MEDAI_DICOM_PORT", "70000"),
    ],
)
def test_a_value_that_makes_no_sense_is_an_error_that_names_the_variable(variable, text):
    with pytest.raises(SettingsError, match=variable):
        read_settings({variable: text})


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(SettingsError) as caught:
        read_settings({"MEDAI_WEB_PORT": "0", "GRADCAM_COLORMAP": "mauve"})
    assert "MEDAI_WEB_PORT" in str(caught.value) and "GRADCAM_COLORMAP" in str(caught.value)


def test_the_colormaps_are_those_of_opencv():
    import cv2

    assert list(COLORMAPS) == sorted(
        name.removeprefix("COLORMAP_").lower() for name in dir(cv2) if name.startswith("COLORMAP_")
    )


def test_names_are_read_in_any_case():
    settings = read_settings({"MEDAI_LOG_LEVEL": "debug", "GRADCAM_COLORMAP": "JET"})
    assert (settings.log_level, settings.gradcam_colormap) == ("DEBUG", "JET")


def test_no_secret_shows_in_the_repr():
    settings = read_settings({"ORTHANC_PASSWORD": "open sesame", "MEDAI_KEY": "a2V5"})
    assert "sesame" not in repr(settings)
    assert "a2V5" not in repr(settings)


def test_the_services_of_the_stack_read_the_settings_that_it_has(tmp_path):
    """Settings go to the services as environment: lists, flags and numbers come back as they were."""
    given = read_settings(
        {
            "MEDAI_HOME": str(tmp_path),
            "DATABASE_URL": "postgresql://x@localhost/y",
            "MEDAI_MODELS": "chest-xray-resnet50, brain-mr-densenet121",
            "GRADCAM_LAYERS": "layer3,layer4",
            "GPU_ENABLED": "false",
            "MEDAI_HISTORY_DAYS": "2.5",
            "MEDAI_DEIDENTIFY_OPTIONS": "retain-device-identity,clean-descriptors",
        }
    )
    assert read_settings(Stack(given).environment()) == given
    defaults = read_settings({"MEDAI_HOME": str(tmp_path)})
    assert read_settings(Stack(defaults).environment()) == defaults


def test_every_setting_that_is_named_anywhere_exists():
    root = EXAMPLE.parent
    files = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "medai_pipeline" / "local").glob("*_cli.py")]
    known = {setting.variable for setting in SETTINGS} | NOT_OURS
    named = {(path.name, name) for path in [*files, root / "medai_pipeline" / "cli.py"]
             for name in re.findall(r"\bMEDAI_[A-Z][A-Z0-9_]*[A-Z0-9]\b", path.read_text())}  # fmt: skip
    assert len(named) > 100
    assert sorted((where, name) for where, name in named if name not in known) == []
