"""Tests: one file per behaviour. Real services where the wire is the subject."""
