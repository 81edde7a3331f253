"""The process in which compressed frames are decoded: one request after the other from standard input, until it closes.

A request is a line of JSON (the frame's description and its number of bytes) and the codestream; an answer is a line of
JSON (shape, dtype and number of bytes, or nothing) and the decoded frame. What a native decoder does to its process, it
does to this one, which holds no file, no header, no key and no setting.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from typing import Any, BinaryIO

# Address space: the libraries take about 1 GiB, the largest frame is held several times.
ADDRESS_SPACE_BYTES = 5 << 30


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # decoders print, and what they print may quote the data
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold pixels
    warnings.simplefilter("ignore")
    serve(sys.stdin.buffer, answers)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    for line in requests:
        request = json.loads(line)
        decoded = decoded_frame(request, requests.read(request.pop("bytes")))
        head: dict[str, Any] = {}
        if decoded is not None:
            head = {"shape": decoded.shape, "dtype": decoded.dtype.str, "bytes": decoded.nbytes}
        answers.write(json.dumps(head).encode() + b"\n")
        if decoded is not None:
            answers.write(memoryview(decoded).cast("B"))
        answers.flush()


def decoded_frame(request: dict[str, Any], codestream: bytes) -> Any:
    """One frame as pydicom and its plug-ins decode it (YBR as RGB), as a contiguous array; None when none of them can."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels import pixel_array
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(request.pop("syntax"))
    for keyword, value in request.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = encapsulate([codestream], has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    try:
        return np.ascontiguousarray(pixel_array(dataset))
    except Exception:  # noqa: BLE001 - whatever a plug-in raises: the parent says which transfer syntax it was
        return None


if __name__ == "__main__":
    main()
