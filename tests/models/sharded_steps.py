"""Steps of a model in one process and of the same, sharded, in two: a script for ``torch.distributed.run``."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from vitsom_fast import param_groups
from vitsom_fast.models import MapModel, ModelSpec, Step, ViTClassifier, build
from vitsom_fast.models.sharded import shard

SIZES = {"image_shape": (1, 8, 8), "grid": (5, 6), "width": 16, "depth": 2, "decoder_width": 8}
SPECS = {
    "cluster": ModelSpec(**SIZES),
    "averages": ModelSpec(**SIZES, prototypes="ema", latent="neck"),
    "classify": ModelSpec(**SIZES, num_classes=3, decoder_depth=0),
    "compact": ModelSpec("compact", **SIZES),
    "desom": ModelSpec("desom", **SIZES),
}


def curve(model: MapModel | ViTClassifier, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Losses of steps on images (steps, B, C, H, W)."""
    som = model.som
    assert som is not None
    # Plain steps: those of AdamW are the same for a sum of gradients and for a mean.
    optimizer = torch.optim.SGD(param_groups(model, som, lr=1e-2))
    losses = []
    for part, of_part in zip(images, labels, strict=True):
        loss = model.losses(part, of_part, Step(2.0, 1.0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()
        losses.append(loss.detach().clone())
    return torch.stack(losses).tolist()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = torch.rand(4, 16, 1, 8, 8), torch.randint(3, (4, 16))
    models = {name: build(spec, "torch").train() for name, spec in SPECS.items()}
    alone = {name: curve(copy.deepcopy(model), images, labels) for name, model in models.items()}
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    found = {}
    for name, model in models.items():
        shard(model)
        mine = slice(rank * 16 // size, (rank + 1) * 16 // size)
        mean = torch.tensor(curve(model, images[:, mine], labels[:, mine]))
        dist.all_reduce(mean)
        prototypes = model.som.prototypes
        whole = [torch.empty_like(prototypes) for _ in range(size)]
        dist.all_gather(whole, prototypes.detach())
        below = list(model.autoencoder.parameters())
        found[name] = {
            "alone": alone[name],
            "sharded": (mean / size).tolist(),
            "below": all(isinstance(parameter, DTensor) for parameter in below),
            "map": not isinstance(prototypes, DTensor) and all(torch.equal(each, whole[0]) for each in whole),
        }
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # on a busy machine PyTorch's threads were not always gone when the interpreter ended: it aborted
