"""A Lightning module: an autoencoder and a map on its latents, that nobody tells the classes."""

from __future__ import annotations

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from vitsom_fast import FusedSOMLoss, exponential_decay, param_groups
from vitsom_fast.data import load_dataset
from vitsom_fast.models import VisionTransformer


class ViTSOM(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer((1, 8, 8), patch=2, width=16, depth=1, decoder_width=8)  # or any encoder of yours
        self.som = FusedSOMLoss((8, 8), dim=self.vit.latent_dim)
        self.temperature = 4.0

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        z = self.vit.encode(images)
        return F.l1_loss(self.vit.decode(z), images) + 0.5 * self.som(z, self.temperature)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        steps = int(self.trainer.estimated_stepping_batches)
        self.temperature = exponential_decay(4.0, 0.5, steps)(self.global_step)
        return self(*batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(param_groups(self, self.som, lr=2e-3))


def train(model: ViTSOM, steps: int = 300) -> None:
    digits = load_dataset("digits")
    batches = DataLoader(TensorDataset(digits.images, digits.labels), 128, shuffle=True)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", gradient_clip_val=1.0, logger=False, enable_checkpointing=False
    )
    trainer.fit(model, batches)


if __name__ == "__main__":
    model = ViTSOM()
    train(model)
    unit, distance = model.som.find_bmu(model.vit.encode(load_dataset("digits").images))
    print(f"{len(unit.unique())} of 64 units win digits, at a mean distance of {distance.mean():.3f}")
