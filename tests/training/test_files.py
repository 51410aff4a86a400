"""The folder of a run on every kind of file system, and beside the files of others."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from vitsom_fast.atomic import write_atomically
from vitsom_fast.training import files, lock

fcntl = pytest.importorskip("fcntl")


# Writing


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_a_folder_that_cannot_be_synced_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    real, refused = os.fsync, []

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            refused.append(handle)
            raise OSError(error, os.strerror(error))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert refused


@pytest.mark.parametrize(
    ("error", "is_harmless"), [(errno.EACCES, True), (errno.EISDIR, True), (errno.EINVAL, True), (errno.EIO, False)]
)
def test_a_folder_that_cannot_be_opened_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, is_harmless: bool
) -> None:
    """As one that may be written but not listed; a disk that fails is said."""
    real = os.open

    def opened(path: str | Path, *args: int) -> int:
        if Path(path) == tmp_path:
            raise OSError(error, os.strerror(error))
        return real(path, *args)

    monkeypatch.setattr(os, "open", opened)
    with nullcontext() if is_harmless else pytest.raises(OSError, match=os.strerror(error)):
        write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"


def test_a_disk_that_fails_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"before")

    def fsync(_handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"before"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path, dangling: bool) -> None:
    other = tmp_path / "other"
    if not dangling:
        other.write_bytes(b"precious")
    (tmp_path / ".a.tmp").symlink_to(other)
    write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert not (tmp_path / "a").is_symlink()
    assert not other.exists() if dangling else other.read_bytes() == b"precious"


def test_a_link_that_comes_in_between_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / ".a.tmp").symlink_to(other)
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)  # as if it came back at once
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a", b"data")
    assert other.read_bytes() == b"precious"


# Claiming


def test_a_claimed_folder_is_claimed_by_nobody_else(tmp_path: Path) -> None:
    with files.claimed(tmp_path / "run"):
        with pytest.raises(ValueError, match="in use by another run"), files.claimed(tmp_path / "run"):
            pass
        with pytest.raises(ValueError, match="in use by another run"), files.claimed(tmp_path / "run"):
            pass
    with files.claimed(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_the_lock_is_on_a_file_that_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, modes = fcntl.flock, []

    def as_on_nfs(handle: int, operation: int) -> None:
        modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    with files.claimed(tmp_path):
        assert modes == [os.O_RDWR]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK, errno.EBADF])
def test_where_there_are_no_locks_a_run_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def flock(_handle: int, _operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_lock_on_a_file_that_its_owner_has_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fcntl.flock, []

    def flock(handle: int, operation: int) -> None:
        calls.append(handle)
        if len(calls) == 1:  # the owner is faster than this call
            (tmp_path / lock.LOCK).unlink()
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.claimed(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / lock.LOCK).exists()


def test_the_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / lock.LOCK).symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match=lock.LOCK), files.claimed(tmp_path):
        pass
    assert not (tmp_path / "other").exists()


def test_the_files_of_others_stay(tmp_path: Path) -> None:
    names = {".notes.tmp", ".notes.txt", "mine.tmp", ".folder.tmp"}
    for name in names - {".folder.tmp"}:
        (tmp_path / name).write_bytes(b"precious")
    (tmp_path / ".folder.tmp").mkdir()
    with files.claimed(tmp_path):
        write_atomically(tmp_path / files.METRICS, b"{}")
    assert {path.name for path in tmp_path.iterdir()} == names | {files.METRICS}


# Names


@pytest.mark.parametrize("name", ["plain", "data[1]", "a*b", "what?", "[!x]", "a+b", "(", "digits-2"])
def test_run_folders_are_counted_by_number_whatever_the_name(tmp_path: Path, name: str) -> None:
    made = [files.make_run_folder(f"{name}.npz", tmp_path).name for _ in range(11)]
    assert made == [name, *(f"{name}-{number}" for number in range(2, 12))]
    (tmp_path / f"{name}-old").mkdir()
    assert files.newest_run_folder(f"elsewhere/{name}.npz", tmp_path) == tmp_path / f"{name}-11"  # not -9
    assert files.newest_run_folder("faces", tmp_path) == tmp_path / "faces"


@pytest.mark.parametrize("dataset", [".npz", "..npz", "...npz", "x/.npz"])
def test_a_data_set_without_a_name_gets_a_folder_of_its_own(tmp_path: Path, dataset: str) -> None:
    folder = files.make_run_folder(dataset, tmp_path)
    assert folder.parent == tmp_path
    assert not folder.name.startswith(".")
    assert files.newest_run_folder(dataset, tmp_path) == folder


def test_a_name_that_another_run_takes_first_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, named = files.new_run_folder, []

    def overtaken(dataset: str, runs: Path) -> Path:
        named.append(real(dataset, runs))
        if len(named) == 1:
            named[0].mkdir()  # by the other run
        return named[-1]

    monkeypatch.setattr(files, "new_run_folder", overtaken)
    assert files.make_run_folder("digits", tmp_path) == tmp_path / "digits-2"


def test_a_link_to_nowhere_is_no_free_name(tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(tmp_path / "nowhere")
    assert files.make_run_folder("digits", tmp_path) == tmp_path / "digits-2"
    (tmp_path / "runs").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        files.make_run_folder("digits", tmp_path / "runs")
