"""The outputs that the original ViT-SOM code gave (golden/README.md), reproduced by every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import relative_error, run, search, skip_unless_supported

from vitsom_fast import Grid

TOPOLOGIES = {"square": "rectangular", "hexa": "hexagonal"}


def _cases(distance: str) -> dict[str, dict[str, Any]]:
    with np.load(Path(__file__).parent / "golden" / "som_layer.npz") as archive:
        fields: dict[str, dict[str, Any]] = {}
        for key in archive.files:
            case, field = key.split(".")
            fields.setdefault(case, {})[field] = archive[key]
    return {name: case for name, case in fields.items() if case["distance"] == distance}


CASES = {name: case for distance in ("cosine", "euclidean", "manhattan") for name, case in _cases(distance).items()}


def test_all_distances_and_topologies_are_there() -> None:
    assert len(CASES) == 24
    assert len({(str(case["distance"]), str(case["topology"])) for case in CASES.values()}) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_recorded_outputs(any_backend: str, name: str, dtype: torch.dtype) -> None:
    """BMUs are equal, loss and gradients within 1e-5; in fp64 within 1e-6, for the original's grid is rounded to fp32."""
    skip_unless_supported(any_backend, dtype)
    case = CASES[name]
    z, prototypes = torch.from_numpy(case["z"]).to(dtype), torch.from_numpy(case["prototypes"]).to(dtype)
    rows, cols = case["grid_size"].tolist()
    grid = Grid(rows, cols, TOPOLOGIES[str(case["topology"])])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-6

    distance = str(case["distance"])
    result = run(any_backend, z, prototypes, grid, float(case["temperature"]), distance=distance)

    assert torch.equal(result.bmu, torch.from_numpy(case["bmu"]))
    assert torch.equal(search(any_backend, z, prototypes, distance=distance)[0], torch.from_numpy(case["bmu"]))
    assert result.loss.item() == pytest.approx(float(case["loss"]), rel=tolerance)
    assert relative_error(result.grad_z, torch.from_numpy(case["grad_z"])) <= tolerance
    assert relative_error(result.grad_prototypes, torch.from_numpy(case["grad_prototypes"])) <= tolerance
