"""DICOM files and their pixels: read, validate, de-identify, normalize, render. Knows no network, no database, no model."""

import logging
import warnings

# pydicom's warnings and log lines quote the values they complain about, and those may be a patient's. What is wrong
# with a file is said by our own errors, without values.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
