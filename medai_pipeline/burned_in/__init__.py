"""Text in the pixels: found by OCR in every image, masked where it could identify, and the result screened again.

`screen.Screener` is the way in. The room knows DICOM files and words, and nothing of studies' ways or stores.
"""
