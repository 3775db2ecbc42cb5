"""Writing files so that a reader sees the old one or the whole new one, never half of it."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepseek.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Give a scratch path beside `target` to write to; rename it into place when the block ends well.

    A target that is not a regular file (a pipe, a device) is written directly.

    Raises:
        OutputError: the disk is full, the folder is missing or not writable. Nothing is left behind.

    Example:
        >>> with atomic_write(Path("out.json")) as scratch:
        ...     scratch.write_text("{}")
        2
    """
    if exists(target) and not target.is_file():
        with output_errors(target):
            yield target
        return
    # Through a link: the file that it points to is written, and the link stays.
    final = Path(os.path.realpath(target))
    scratch = final.with_name(f".{final.name[:200]}.{secrets.token_hex(4)}.part")
    with output_errors(target):
        # Made with the mode that the user's umask gives.
        os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with output_errors(target):
            yield scratch
            if exists(final):
                os.chmod(scratch, stat.S_IMODE(final.stat().st_mode))
            os.replace(scratch, final)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()


def exists(path: Path) -> bool:
    """Whether there is anything at a path; False also for what can't be a path (a name that is too long)."""
    try:
        return path.exists()
    except OSError:
        return False


def is_full(exc: OSError) -> bool:
    """Whether the system refused to write because a disk, a quota or a limit on sizes is exhausted."""
    # NumPy's tofile() tells no number, only "1536 requested and 0 written".
    return exc.errno in _FULL or (exc.errno is None and str(exc).endswith(" written"))


def disk_full(target: Path | str) -> OutputError:
    """The error for that."""
    return OutputError("the disk is full", where=str(target), hint="free space or write elsewhere")


@contextmanager
def output_errors(target: Path | str) -> Iterator[None]:
    """Translate the operating system's refusals to write, in the block, into OutputError.

    Example:
        >>> with output_errors("out.txt"):
        ...     Path("out.txt").write_text("...")
        3
    """
    try:
        yield
    except OSError as exc:
        if is_full(exc):
            raise disk_full(target) from exc
        if exc.errno == errno.EPIPE:
            raise
        hint = "check that the folder exists and may be written to"
        raise OutputError(f"can't write ({exc.strerror or exc})", where=str(target), hint=hint) from exc
