"""DICOM files and their pixels: read, validate, de-identify, normalize, render. Knows no network, no database, no model."""
