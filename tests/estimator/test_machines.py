"""Files larger than memory, several processes, Dask: the same map."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch.multiprocessing
from test_fit import blobs

from vitsom_fast import SOM
from vitsom_fast.estimator.npy import NpyRows
from vitsom_fast.estimator.read_ahead import read_ahead

LARGE = """
import resource, sys
import numpy as np
from vitsom_fast import SOM
rows, dim = 6000, 4096
x = np.memmap(sys.argv[1], dtype=np.float32, mode="r", shape=(rows, dim))
som = SOM(1, 2, n_epochs=1, init=np.eye(2, dim), batch_size=64)
som.fit(np.zeros((130, dim), dtype=np.float32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
som.fit(x)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the memory that Linux counts")
def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """94 MB that take no room on the disk; chunks of 1 MB, read one ahead, and what is computed with them."""
    with open(tmp_path / "rows", "wb") as file:
        file.truncate(6000 * 4096 * 4)
    run = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path / "rows")], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 60


MADE = """
import resource, sys
import numpy as np
from vitsom_fast import SOM
class Made:
    def __iter__(self):
        return (np.full((1000, 1000), i, dtype=np.float32) for i in range(1, 101))
som = SOM(1, 2, n_epochs=1, init=np.eye(2, 1000))
som.fit(np.ones((1000, 1000), dtype=np.float32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
som.fit(Made())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, len(som.labels_))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the memory that Linux counts")
def test_chunks_are_never_in_memory_all_at_once() -> None:
    """400 MB that are made when they are asked for, in chunks of 4 MB."""
    run = subprocess.run([sys.executable, "-c", MADE], capture_output=True, text=True, check=True)
    most, count = run.stdout.split()
    assert int(count) == 100_000
    assert float(most) < 250


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int64])
def test_files_are_what_they_hold(tmp_path: Path, mode: str, dtype: type) -> None:
    x = (blobs() * 10 + (2**30 if dtype is np.int64 else 0)).astype(dtype)  # which fp32 does not hold
    np.save(tmp_path / "x.npy", x)
    expected = SOM(3, 3, n_epochs=2).fit(x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    if mode == "c":
        mapped[0] += 1
        expected = SOM(3, 3, n_epochs=2).fit(np.array(mapped))
    for given in (mapped, NpyRows(tmp_path / "x.npy")) if mode != "c" else (mapped,):
        som = SOM(3, 3, n_epochs=2, batch_size=64).fit(given)
        np.testing.assert_allclose(som.prototypes_, expected.prototypes_, atol=1e-4)
        np.testing.assert_array_equal(som.labels_, expected.labels_)
    assert mode != "c" or (mapped[0] == (x[0] + 1)).all()


def test_npy_files_by_columns(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    rows = NpyRows(tmp_path / "x.npy")
    for part in (slice(0, 7), slice(7, 30), slice(30, 40)):
        np.testing.assert_array_equal(rows[part], x[part])


def test_npy_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, x in (("flat", np.zeros(3)), ("text", np.array([["a"]]))):
        np.save(tmp_path / f"{name}.npy", x)
        with pytest.raises(ValueError, match="must hold rows"):
            NpyRows(tmp_path / f"{name}.npy")
    np.save(tmp_path / "x.npy", np.zeros((30, 2)))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="shorter"):
        NpyRows(tmp_path / "x.npy")
    (tmp_path / "y.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"must be an \.npy file"):
        NpyRows(tmp_path / "y.npy")


def test_an_error_of_the_reader_is_raised() -> None:
    def broken():
        yield 1
        raise OSError("no disk")

    items = read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="no disk"):
        next(items)


def test_a_reader_ends_with_its_user() -> None:
    items = read_ahead(iter(range(1000)))
    assert next(items) == 0
    items.close()
    assert not [thread for thread in threading.enumerate() if "read-ahead" in thread.name]


def rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    x = blobs(101)
    for metric in ("euclidean", "cosine"):
        own = x[:30] if number == 0 else x[30:]
        som = SOM(3, 4, metric=metric, n_epochs=4).fit(own, sample_weight=np.ones(len(own)) if metric == "cosine" else None)
        error = som.quantization_error(own)
        np.savez(Path(folder) / f"{metric}{number}.npz", prototypes=som.prototypes_, labels=som.labels_, error=error)
    torch.distributed.destroy_process_group()


def second_rank(_number: int, folder: str) -> None:
    rank(1, folder)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
def test_two_processes_have_the_map_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    other = torch.multiprocessing.spawn(second_rank, (str(tmp_path),), join=False)
    threads = torch.get_num_threads()
    rank(0, str(tmp_path))
    torch.set_num_threads(threads)
    other.join()
    x = blobs(101)
    for metric in ("euclidean", "cosine"):
        expected = SOM(3, 4, metric=metric, n_epochs=4).fit(x)
        parts = [np.load(tmp_path / f"{metric}{number}.npz") for number in (0, 1)]
        for part in parts:
            np.testing.assert_allclose(part["prototypes"], expected.prototypes_, atol=1e-5)
            assert part["error"] == pytest.approx(expected.quantization_error(x), rel=1e-5)
        np.testing.assert_array_equal(np.concatenate([part["labels"] for part in parts]), expected.labels_)


@pytest.mark.parametrize("kind", ["array", "dataframe"])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_of_dask(kind: str, weighted: bool) -> None:
    dask_array = pytest.importorskip("dask.array")
    x = blobs(101)
    weight = np.random.default_rng(0).random(101) if weighted else None
    given = dask_array.from_array(x, chunks=(30, 3))
    if kind == "dataframe":
        given = pytest.importorskip("dask.dataframe").from_dask_array(given.rechunk((30, 4)), columns=list("abcd"))
    expected = SOM(3, 4, n_epochs=3).fit(x, sample_weight=weight)
    som = SOM(3, 4, n_epochs=3).fit(given, sample_weight=weight)
    np.testing.assert_allclose(som.prototypes_, expected.prototypes_, atol=1e-5)
    np.testing.assert_array_equal(som.labels_.compute(), expected.labels_)
    np.testing.assert_allclose(som.transform(given).compute(), expected.transform(x), atol=1e-5)
    assert som.quantization_error(given) == pytest.approx(expected.quantization_error(x), rel=1e-5)


@pytest.mark.slow
def test_two_workers_of_dask_have_the_map_of_one() -> None:
    dask_array, distributed = pytest.importorskip("dask.array"), pytest.importorskip("distributed")
    x = blobs(101)
    expected = SOM(3, 4, n_epochs=3, init="sample", random_state=0).fit(x)
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**how) as cluster, distributed.Client(cluster):
        som = SOM(3, 4, n_epochs=3, init="sample", random_state=0).fit(dask_array.from_array(x, chunks=(30, 4)))
        labels = som.labels_.compute()
    np.testing.assert_allclose(som.prototypes_, expected.prototypes_, atol=1e-5)
    np.testing.assert_array_equal(labels, expected.labels_)
