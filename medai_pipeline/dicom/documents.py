"""What takes the place of an encapsulated document (code D of PS3.15 Table E.1-1), whose inside cannot be cleaned.

Here belongs the page that stands for a PDF. Other kinds (CDA, 3D models) have no harmless form that a reader would take
for what it is, so `deidentify` refuses them.
"""

from __future__ import annotations

from functools import cache

ENCAPSULATED_DOCUMENT, MIME_TYPE, DOCUMENT_LENGTH = 0x00420011, 0x00420012, 0x00420015
PDF = "application/pdf"
_TEXT = b"BT /F1 14 Tf 72 720 Td (The document was removed at de-identification.) Tj ET"
_OBJECTS = (
    b"<< /Type /Catalog /Pages 2 0 R >>",
    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
    b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
    b"<< /Length %d >>\nstream\n%s\nendstream" % (len(_TEXT), _TEXT),
)


@cache
def removed_pdf() -> bytes:
    """A PDF of one page that says that the document was removed."""
    body = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(_OBJECTS, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    entries = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    table = b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(offsets) + 1, entries)
    return (
        body + table + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(offsets) + 1, len(body))
    )
