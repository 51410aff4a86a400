"""A ViT of PyTorch's own blocks with a map on its class token, in a loop of one's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast import FusedSOMLoss, exponential_decay, param_groups
from vitsom_fast.data import load_dataset


class ViT(nn.Module):
    """Patches of 2 x 2 pixels of an 8 x 8 image, a class token, two blocks, a head, and the map."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, stride=2)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)
        self.som = FusedSOMLoss((8, 8), dim=width)
        self.temperature = 4.0

    def latents(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).mT + self.positions  # [B, 16, width]
        return self.encoder(torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1))[:, 0]

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        z = self.latents(images)  # [B, width]
        return F.cross_entropy(self.head(z), labels) + 0.5 * self.som(z, self.temperature)


def train(model: ViT, steps: int = 300) -> None:
    digits = load_dataset("digits")
    optimizer = torch.optim.AdamW(param_groups(model, model.som, lr=5e-3))
    temperature = exponential_decay(start=4.0, stop=0.5, total_steps=steps)
    for step in range(steps):
        model.temperature = temperature(step)
        loss = model(*digits.batch(torch.randint(len(digits), (128,))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    model = ViT()
    train(model)
    unit, distance = model.som.find_bmu(model.latents(load_dataset("digits").images))
    print(f"{len(unit.unique())} of 64 units win digits, at a mean distance of {distance.mean():.3f}")
