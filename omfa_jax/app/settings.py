"""What one visitor of the page may ask for, and for how long their files are kept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AppLimits:
    """Limits of the page.

    `queue`: people who may wait; the next one is told to come back. `upload_mb`: size of one
    photo, or of the files of one upload together. `uploads`: those of all visitors within `keep_s`,
    a webcam's text at each use among them, so that they cannot fill the disk.
    `steps`, `results` and `views` bound the work of one job. Files are removed `keep_s` seconds
    after their job, and all of them when the page ends.
    """

    queue: int = 8
    upload_mb: int = 20
    uploads: int = 500
    steps: int = 100
    results: int = 4
    views: int = 12
    keep_s: int = 1800
