"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek.errors import OutputError
from deepseek.files import atomic_write


@pytest.fixture
def small_files() -> Iterator[None]:
    """A process that may write no file above 1 KiB: the nearest thing to a full disk that needs no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_write(target) as scratch:
            scratch.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    with atomic_write(target) as scratch:
        scratch.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, small_files: None) -> None:
    with pytest.raises(OutputError, match="the disk is full"), atomic_write(tmp_path / "a") as scratch:
        scratch.write_bytes(b"x" * 5000)
    assert os.listdir(tmp_path) == []


def test_a_device_is_written_directly() -> None:
    def write() -> None:
        with atomic_write(Path("/dev/full")) as scratch:
            assert scratch == Path("/dev/full")
            scratch.write_text("x")

    with pytest.raises(OutputError, match="/dev/full: the disk is full") as caught:
        write()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't write"), atomic_write(tmp_path / "no" / "a"):
        pass


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_write(tmp_path / "link.txt") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_modes_are_those_of_the_umask_and_of_the_file_replaced(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        for _ in range(2):
            with atomic_write(tmp_path / "a.txt") as scratch:
                scratch.write_text("secret")
            assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600
        (tmp_path / "a.txt").chmod(0o640)
        with atomic_write(tmp_path / "a.txt") as scratch:
            scratch.write_text("secret")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
