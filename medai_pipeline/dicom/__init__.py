"""DICOM files and their pixels: read, validate, de-identify, normalize, render. Knows no network, no database, no model."""

import logging
import warnings

import pydicom  # noqa: F401  # first: importing it sets its logger up anew, and would undo what is said below


def _silent(record: logging.LogRecord) -> bool:
    return False


# pydicom's warnings and log lines quote the values they complain about, and those may be a patient's. What is wrong
# with a file is said by our own errors, without values. A filter holds whatever sets the level again later.
for _name in ("pydicom", *(name for name in logging.root.manager.loggerDict if name.startswith("pydicom."))):
    logging.getLogger(_name).addFilter(_silent)
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
logging.getLogger("pydicom").propagate = False
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
