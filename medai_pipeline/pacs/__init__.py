"""The wire to a PACS: Orthanc by REST. Studies in and out; no decision about them."""
