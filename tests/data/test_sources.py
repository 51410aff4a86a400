"""Folders of pictures, the hub and .npz files with a test half: small local copies of what they look like."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitsom_fast.data import hub, load_splits
from vitsom_fast.data.pictures import read_pictures

RANDOM = np.random.default_rng(0)


def picture(shape: tuple[int, ...] = (5, 6, 3)) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


# Folders


def test_a_folder_by_class(tmp_path: Path) -> None:
    dog, cat = write(tmp_path / "dog" / "b.png", picture()), write(tmp_path / "cat" / "a.png", picture())
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    train, test, validation = load_splits(str(tmp_path))
    assert test is None
    assert validation is None
    assert train.classes == ("cat", "dog")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1]
    assert train.pixels.dtype == torch.uint8
    assert torch.equal(train.pixels, torch.from_numpy(np.stack([cat, dog])).movedim(-1, 1))


def test_a_folder_with_halves_and_grey_pictures(tmp_path: Path) -> None:
    for half, classes in (("train", "ab"), ("test", "b"), ("val", "c")):
        for name in classes:
            write(tmp_path / half / name / "1.png", picture((4, 4)))
    train, test, validation = load_splits(str(tmp_path))
    assert train.image_shape == (1, 4, 4)
    assert test is not None
    assert validation is not None
    assert [half.labels.tolist() for half in (train, test, validation) if half.labels is not None] == [[0, 1], [1], [2]]
    assert train.classes == test.classes == validation.classes == ("a", "b", "c")


def test_pictures_of_many_sizes_need_one(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", picture())
    write(tmp_path / "a" / "2.png", picture((7, 6)))
    with pytest.raises(ValueError, match=r"2\.png.* has 7 x 6 pixels where others have 5 x 6: give an image_size"):
        load_splits(str(tmp_path))
    assert load_splits(str(tmp_path), 8).train.pixels.shape == (2, 3, 8, 8)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no pictures"):
        load_splits(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "torn.png").write_bytes(b"\x89PNG torn")
    with pytest.raises(ValueError, match=r"torn\.png' cannot be read"):
        load_splits(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"typo\.png"):
        read_pictures([tmp_path / "typo.png"])


# .npz files


def test_npz_with_a_test_half(tmp_path: Path) -> None:
    arrays = {"images": picture((4, 5, 5)), "test_images": picture((2, 5, 5))}
    np.savez(tmp_path / "d.npz", **arrays, labels=["b", "c", "b", ""], test_labels=["a", "c"])
    train, test, validation = load_splits(str(tmp_path / "d.npz"))
    assert train.classes == ("a", "b", "c")
    assert train.labels is not None
    assert test is not None
    assert test.labels is not None
    assert train.labels.tolist() == [1, 2, 1, -1]
    assert test.labels.tolist() == [0, 2]
    assert validation is None
    assert torch.equal(test.pixels[:, 0], torch.from_numpy(arrays["test_images"]))


def test_a_file_of_medmnist(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    for half, count in (("train", 4), ("val", 2), ("test", 3)):
        arrays |= {f"{half}_images": picture((count, 6, 6, 3)), f"{half}_labels": np.arange(count, dtype=np.uint8)[:, None]}
    np.savez(tmp_path / "pathmnist.npz", **arrays)
    halves = load_splits(str(tmp_path / "pathmnist.npz"))
    assert [len(half) for half in halves if half is not None] == [4, 3, 2]
    for half, name in zip(halves, ("train", "test", "val"), strict=True):
        assert half is not None
        assert half.labels is not None
        assert half.labels.tolist() == arrays[f"{name}_labels"][:, 0].tolist()
        assert torch.equal(half.pixels, torch.from_numpy(arrays[f"{name}_images"]).movedim(-1, 1))


def test_halves_of_two_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=picture((4, 5, 5)), test_images=picture((2, 6, 5)))
    with pytest.raises(ValueError, match="one shape"):
        load_splits(str(tmp_path / "d.npz"))
    np.savez(tmp_path / "d.npz", images=picture((4, 5, 5)), test_images=picture((2, 5, 5)), test_labels=np.zeros(3))
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\)"):
        load_splits(str(tmp_path / "d.npz"))


# The hub: a folder of parquet files, as one downloads them

SCHEMAS: dict[str, tuple[str, tuple[str, ...], tuple[int, ...], tuple[str, ...]]] = {
    "mnist": ("image", ("label",), (28, 28), ("train", "test")),
    "fmnist": ("image", ("label",), (28, 28), ("train", "test")),
    "usps": ("image", ("label",), (16, 16), ("train", "test")),
    "cifar-10": ("img", ("label",), (32, 32, 3), ("train", "test")),
    "cifar-100": ("img", ("fine_label", "coarse_label"), (32, 32, 3), ("train", "test")),
    "svhn": ("image", ("label",), (32, 32, 3), ("train", "test", "extra")),
    "tiny-imagenet": ("image", ("label",), (64, 64, 3), ("train", "valid")),
    "flowers-102": ("image", ("label",), (40, 50, 3), ("train", "test", "validation")),
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No socket opens, and caches are new."""
    datasets = pytest.importorskip("datasets")

    def refused(*_args: Any, **_options: Any) -> None:
        raise ConnectionError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import datasets

    image, labels, shape, halves = SCHEMAS[name]
    folder, written = tmp_path / "repository", {}
    features = datasets.Features(
        {image: datasets.Image(), **{label: datasets.ClassLabel(names=["zebra", "ant"]) for label in labels}}
    )
    for half in halves:
        pixels = [picture(shape) for _ in range(3)]
        written[half] = pixels
        rows = {image: [Image.fromarray(each) for each in pixels], **{label: [1, 0, 1] for label in labels}}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / "data" / f"{half}-00000-of-00001.parquet")
    monkeypatch.setitem(hub.SOURCES, name, hub.SOURCES[name]._replace(repository=str(folder), config=None))
    train, test, validation = load_splits(name)
    for half, found in ((halves[0], train), (halves[1], test)):
        assert found is not None
        assert found.labels is not None
        assert found.labels.tolist() == [1, 0, 1]
        assert found.classes == ("zebra", "ant")
        expected = torch.from_numpy(np.stack(written[half]))
        expected = expected[:, None] if len(shape) == 2 else expected.movedim(-1, 1)
        if name == "flowers-102":
            assert found.image_shape == (3, 224, 224)
        else:
            assert torch.equal(found.pixels, expected)
    assert (validation is not None) == ("validation" in halves)


def test_without_a_network_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_args: Any) -> None:
        raise ConnectionError("Couldn't reach 'ylecun/mnist' on the Hub\nMax retries exceeded")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"^dataset 'mnist' cannot be had from 'ylecun/mnist' \([^\n]*\).*folder.*npz[^\n]*$"):
        load_splits("mnist")


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'vitsom_fast\[data\]'"):
        load_splits("hf:some/where")


@pytest.mark.parametrize("name", ["None", "nan", "-1"])
def test_a_folder_of_any_name_is_a_class(tmp_path: Path, name: str) -> None:
    for each in ("a", name):
        write(tmp_path / each / "1.png", picture())
    train = load_splits(str(tmp_path)).train
    assert train.classes == tuple(sorted(("a", name)))
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (np.array([[0, 257], [25700, 65535]], np.uint16), "png"),
        (np.array([[0, 257], [25700, 65535]], np.int32), "tif"),
        (np.array([[0, 1 / 255], [100 / 255, 1]], np.float32), "tif"),
    ],
    ids=["I;16", "I", "F"],
)
def test_pictures_of_more_than_bytes_are_scaled(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    write(tmp_path / f"deep.{suffix}", pixels)
    for channels in (1, 3):
        found = read_pictures([tmp_path / f"deep.{suffix}"], channels=channels)
        assert found.tolist() == [[[[0, 1], [100, 255]]] * channels]


@pytest.mark.parametrize("value", [np.int32(70000), np.float32(1.5), np.float32(np.nan)])
def test_numbers_out_of_range_name_the_picture(tmp_path: Path, value: Any) -> None:
    write(tmp_path / "deep.tif", np.full((2, 2), value))
    with pytest.raises(ValueError, match=r"picture '.*deep\.tif' cannot be used: its numbers must be from 0 to"):
        read_pictures([tmp_path / "deep.tif"])


def test_images_of_any_source_are_resized(tmp_path: Path) -> None:
    grey = np.repeat(np.array([0, 255], np.uint8), 2).repeat(8).reshape(1, 4, 8)
    np.savez(tmp_path / "a.npz", images=grey, test_images=grey / 255)
    train, test, _ = load_splits(str(tmp_path / "a.npz"), 2)
    assert test is not None
    assert train.image_shape == test.image_shape == (1, 2, 2)
    assert train.pixels.dtype == torch.uint8
    torch.testing.assert_close(test.pixels, train.images, rtol=0, atol=0.003)
    assert train.pixels[0, 0, 0, 0] < 64 < 192 < train.pixels[0, 0, 1, 1]
    assert load_splits("digits", 12).train.image_shape == (1, 12, 12)


@pytest.mark.parametrize("name", ["pathmnist.npz", "flowers-17.npz"])
def test_what_nothing_downloads_is_said_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"'{name}': there is no such file: .*https://.* --data"):
        load_splits(name)


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_no_folder(name: str) -> None:
    with pytest.raises(ValueError, match="dataset must be one of"):
        load_splits(name)
