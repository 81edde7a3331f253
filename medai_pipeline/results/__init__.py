"""What goes back or is read by a person: the report as JSON and HTML (later SR, SEG, SC, Parametric Map, FHIR)."""
