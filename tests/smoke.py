"""Whether an installed package works: ``python tests/smoke.py``, of a wheel, with nothing but what it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import vitsom_fast
from vitsom_fast import SOM, FusedSOMLoss, find_bmu


def main() -> None:
    reasons = vitsom_fast.available_backends()
    if os.environ.get("VITSOM_BUILD_CPU") == "1":
        assert reasons["cpu"] is None, reasons["cpu"]
    torch.manual_seed(0)
    som = FusedSOMLoss((6, 7), dim=16)
    z = torch.randn(50, 16, requires_grad=True)
    som(z, 2.0).backward()
    gradients = z.grad, som.prototypes.grad
    for backend in (name for name in ("torch", "cpu", "reference") if reasons[name] is None):
        again = FusedSOMLoss((6, 7), dim=16, backend=backend)
        again.load_state_dict(som.state_dict())
        x = z.detach().requires_grad_()
        again(x, 2.0).backward()
        for found, expected in zip((x.grad, again.prototypes.grad), gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(find_bmu(x, som.prototypes, backend=backend)[0], som.find_bmu(x)[0]), backend
    rows = np.random.default_rng(0).normal(size=(200, 3))
    fitted = SOM(3, 4).fit(rows)
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(Path(folder) / "map.safetensors")
        assert (SOM.load(Path(folder) / "map.safetensors").predict(rows) == fitted.labels_).all()
    subprocess.run([sys.executable, "-m", "vitsom_fast", "info"], check=True, stdout=subprocess.DEVNULL)
    print(f"vitsom_fast {vitsom_fast.__version__} works, with {[name for name, reason in reasons.items() if reason is None]}")


if __name__ == "__main__":
    main()
