"""The scorer's rooms: `standard` (the tables), `specimens` (what is planted), `key` (what must happen), `judge` (what did), `tools`.

Nothing here looks into medai_pipeline.dicom: the key must not know how the tool that it judges decides.
"""
