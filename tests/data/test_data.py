"""Data sets: what an .npz file may hold, and what is said of one that holds something else."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitsom_fast.data import Dataset, arrays, load_dataset


def test_digits() -> None:
    digits = load_dataset("digits")
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.aminmax() == (0.0, 1.0)
    assert digits.classes == tuple("0123456789")
    assert digits.labels is not None
    assert torch.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_photo_patches_are_cut_from_the_photographs() -> None:
    from sklearn.datasets import load_sample_image

    patches = load_dataset("photo-patches")
    assert patches.images.shape == (2 * 53 * 80, 3, 8, 8)
    assert patches.labels is None
    expected = torch.tensor(load_sample_image("china.jpg")[8:16, 24:32]).permute(2, 0, 1) / 255
    torch.testing.assert_close(patches.images[80 + 3], expected)


def test_npz_of_bytes_with_channels_and_named_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "pets.npz", images=images, labels=["dog", "cat", "dog", "ant", "cat"])
    pets = load_dataset(str(tmp_path / "pets.npz"))
    assert pets.name == "pets"
    torch.testing.assert_close(pets.images[2, 1], torch.from_numpy(images[2, :, :, 1]) / 255)
    assert pets.classes == ("ant", "cat", "dog")
    assert pets.labels is not None
    assert pets.labels.tolist() == [2, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": np.zeros((2, 4, 4))}, "'images'.*pixels"),
        ({"images": np.zeros((2, 4))}, r"shape \(N, H, W\)"),
        ({"images": np.zeros((0, 4, 4))}, "shape"),
        ({"images": np.zeros((2, 4, 4), dtype=np.int32)}, "int32"),
        ({"images": np.full((2, 4, 4), 1.5)}, r"\[0, 1\]"),
        ({"images": np.full((2, 4, 4), np.nan)}, "finite"),
        ({"images": np.zeros((2, 4, 4)), "labels": np.zeros(3)}, "labels"),
        ({"images": np.array([[["a"]]], dtype=object)}, "cannot be used"),
    ],
)
def test_unusable_npz_is_explained(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=f"bad.npz.*{message}"):
        load_dataset(str(tmp_path / "bad.npz"))


def test_other_unusable_datasets_are_explained(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"torn\.npz"):
        load_dataset(str(tmp_path / "torn.npz"))
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        load_dataset(str(tmp_path / "none.npz"))
    with pytest.raises(ValueError, match=r"'digits'.*'imagenet'"):
        load_dataset("imagenet")


def test_the_fingerprint_is_of_the_images() -> None:
    images = torch.rand(3, 1, 4, 4)
    assert Dataset("a", images).fingerprint() == Dataset("b", images.clone(), torch.tensor([0, 1, 1])).fingerprint()
    assert Dataset("a", images).fingerprint() != Dataset("a", images + 1e-6).fingerprint()
    assert Dataset("a", images.mT).fingerprint() == Dataset("a", images.mT.contiguous()).fingerprint()


# Layouts


@pytest.mark.parametrize(
    "shape", [(2, 4, 32, 32), (2, 3, 32, 32), (2, 1, 28, 28), (2, 13, 64, 64), (2, 3, 24, 32), (2, 8, 9, 10)]
)
def test_channels_first_is_no_guess(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, images = tmp_path / "bands.npz", np.random.default_rng(0).random(shape, dtype=np.float32)
    np.savez(path, images=images)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\).*\(N, H, W, C\).*transpose\(0, 2, 3, 1\).*layout"):
        load_dataset(str(path))
    np.savez(path, images=images.transpose(0, 2, 3, 1))
    assert torch.equal(load_dataset(str(path)).images, torch.from_numpy(images))
    np.savez(path, images=images, layout="NCHW")
    assert torch.equal(load_dataset(str(path)).images, torch.from_numpy(images))
    np.savez(path, images=images, layout="NHWC")
    assert torch.equal(load_dataset(str(path)).images, torch.from_numpy(images).movedim(-1, 1))


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 3, 32, 4), (2, 2, 2, 1), (2, 4, 4, 200), (2, 32, 16, 20)])
def test_channels_last_is_taken(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images)
    assert torch.equal(load_dataset(str(tmp_path / "d.npz")).images, torch.from_numpy(images).movedim(-1, 1) / 255)


def test_an_unknown_layout_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 4, 4, 3)), layout="HWC")
    with pytest.raises(ValueError, match=r"layout must be one of .*'HWC'"):
        load_dataset(str(tmp_path / "d.npz"))


# Damaged and foreign files


def npz_bytes(**members: bytes) -> bytes:
    """An archive of raw members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_field(data: bytes, offset: int, value: int) -> bytes:
    """The archive with a 16-bit field of both of its headers, at ``offset`` in the central one, set."""
    changed = bytearray(data)
    struct.pack_into("<H", changed, data.index(b"PK\x01\x02") + offset, value)
    struct.pack_into("<H", changed, data.index(b"PK\x03\x04") + offset - 2, value)
    return bytes(changed)


def deflated(images: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images)
    return buffer.getvalue()


def overwritten(data: bytes) -> bytes:
    """With zeros in its first member."""
    return data[:90] + bytes(510) + data[600:]


def claiming(shape: str) -> bytes:
    """An .npy file of a few bytes whose header claims that shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


GOOD = npz_bytes(images=npy_bytes(np.zeros((2, 4, 4))))
DAMAGED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no archive": lambda: b"garbage" * 100,
    "truncated": lambda: GOOD[: len(GOOD) // 2],
    "an .npy file": lambda: npy_bytes(np.zeros((2, 4, 4))),
    "unknown compression": lambda: with_field(GOOD, 10, 77),
    "encrypted": lambda: with_field(GOOD, 8, 1),
    "damaged deflate": lambda: overwritten(deflated(np.random.default_rng(0).random((9, 9, 9)))),
    "a raw member": lambda: npz_bytes(images=b"raw"),
    "an empty member": lambda: npz_bytes(images=b""),
    "an empty archive": lambda: npz_bytes(),
    "huge": lambda: npz_bytes(images=claiming("(1000000000000, 8, 8)")),
    "overflowing": lambda: npz_bytes(images=claiming("(4611686018427387904, 8, 8)")),
    "negative": lambda: npz_bytes(images=claiming("(-1, 8, 8)")),
    "no shape": lambda: npz_bytes(images=claiming("'huge'")),
    "too short": lambda: npz_bytes(images=claiming("(100, 8, 8)")),
    "nested": lambda: npz_bytes(images=claiming("(" * 90 + ")" * 90)),
    "a pickle": lambda: npz_bytes(images=npy_bytes(np.array([[[print]]], dtype=object))),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_and_foreign_files_are_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(DAMAGED[kind]())
    with pytest.raises(ValueError, match=r"dataset '.*bad\.npz' cannot be used: ."):
        load_dataset(str(path))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("folder.npz", "pipe.npz"):
        with pytest.raises(FileNotFoundError, match=f"{name}.*no file"):
            load_dataset(str(tmp_path / name))


def test_images_that_memory_cannot_hold_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file can be read, but as fp32 its images are four times as large."""

    def no_memory(*_args: Any) -> torch.Tensor:
        raise MemoryError("Unable to allocate 90 GiB")

    monkeypatch.setattr(arrays, "_checked_images", no_memory)
    (tmp_path / "large.npz").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"dataset '.*large\.npz' cannot be used: Unable to allocate 90 GiB"):
        load_dataset(str(tmp_path / "large.npz"))


# Memory, in units of the images as fp32: what the file holds, and they


def peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("dtype", "units"), [("uint8", 1.25), ("float16", 1.5), ("float32", 2.0), ("float64", 3.0)])
def test_images_are_held_once_beside_the_file(tmp_path: Path, dtype: str, units: float) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, images=np.ones((500, 32, 32, 3), dtype=dtype))
    load_dataset(str(path))  # what is imported on the way is no image
    bytes_of_images = 500 * 32 * 32 * 3 * 4
    assert peak(lambda: load_dataset(str(path))) < (units + 0.2) * bytes_of_images


def test_a_fingerprint_takes_no_copy() -> None:
    dataset = Dataset("d", torch.rand(500, 3, 32, 32))
    assert peak(dataset.fingerprint) < 0.2 * dataset.images.numel() * 4
