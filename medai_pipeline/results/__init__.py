"""What goes back or is read by a person: the report as JSON, HTML, DICOM objects and FHIR."""
