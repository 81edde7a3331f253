"""How much one file may cost. A file that claims more is refused before anything is allocated, inflated or decoded.

The figures are far above what scanners write and far below what harms the machine beside them.
"""

from __future__ import annotations

from medai_pipeline.errors import UndecodablePixels

MAX_FILE_BYTES = 4 << 30  # 32-bit lengths end there, and so does what a PACS sends as one object
MAX_FRAME_BYTES = 512 << 20  # a digitized film of 16000 x 16000 at 16 bits
MAX_DECODED_BYTES = 2 << 30  # all frames of an object, where a caller wants them at once
MAX_FRAMES = 1 << 20
MAX_FRAMES_PREPARED = 1024  # of one object for one model: more are sampled evenly

# A decoder is given this long for one frame and for one file; the slowest here (JPEG lossless) does 10 MB a second.
SECONDS_PER_FRAME = 15.0
SECONDS_PER_FILE = 60.0
SLOWEST_BYTES_PER_SECOND = 2 << 20


def check_frame_claim(rows: int, columns: int, samples: int, bits_allocated: int, frames: int) -> None:
    """Raises UndecodablePixels when one decoded frame, or the number of frames, is beyond what is accepted."""
    if rows * columns * samples * max(8, bits_allocated) // 8 > MAX_FRAME_BYTES:
        raise UndecodablePixels(f"one frame would take more than {MAX_FRAME_BYTES >> 20} MiB; check rows and columns")
    if frames > MAX_FRAMES:
        raise UndecodablePixels(f"the object claims more than {MAX_FRAMES} frames; check its number of frames")


def frame_seconds(frame_bytes: int) -> float:
    return SECONDS_PER_FRAME + frame_bytes / SLOWEST_BYTES_PER_SECOND


def file_seconds(frame_bytes: int, frames: int) -> float:
    return SECONDS_PER_FILE + frame_bytes * frames / SLOWEST_BYTES_PER_SECOND
