"""Files that are whole or not there."""

import os
from pathlib import Path


class ArtifactError(ValueError):
    """A file is not what it should be; the message, one line, says in what."""


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes beside, then renames: `path` holds the old content or all of the new.

    Raises:
      OSError: the folder is missing or read-only, or the disk is full; the old file is
        as it was.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path} ({len(content):,} bytes), which is left as it was: "
            f"{error.strerror}",
        ) from error


def read(path: str | os.PathLike) -> bytes:
    """The content of `path`.

    Raises:
      FileNotFoundError: there is no such file.
      ArtifactError: it is empty, or not a file.
    """
    path = Path(path)
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, not a file")
    content = path.read_bytes()
    if not content:
        raise ArtifactError(f"{path} is empty")
    return content
