"""A ViT-SOM in a loop of Hugging Face's ``accelerate``: on one device or, by ``accelerate launch``, on many."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from vitsom_fast import FusedSOMLoss, exponential_decay, param_groups
from vitsom_fast.data import load_dataset
from vitsom_fast.models import VisionTransformer


class ViTWithMap(nn.Module):
    """The map is a part of the model, so that whatever wraps the one sees the other's gradients, too."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer((1, 8, 8), patch=2, width=16, depth=1, decoder_depth=0, latent="mean")
        self.head = nn.Linear(self.vit.latent_dim, 10)
        self.som = FusedSOMLoss((8, 8), dim=self.vit.latent_dim)

    def forward(self, images: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
        z = self.vit.encode(images)
        return F.cross_entropy(self.head(z), labels) + 0.5 * self.som(z, temperature)


def train(model: ViTWithMap, epochs: int = 20) -> None:
    accelerator = Accelerator(cpu=True)  # without cpu=True: where the machine has a GPU, there
    digits = load_dataset("digits")
    batches = DataLoader(TensorDataset(digits.images, digits.labels), 128, shuffle=True)
    optimizer = torch.optim.AdamW(param_groups(model, model.som, lr=5e-3))
    wrapped, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    temperature = exponential_decay(start=4.0, stop=0.5, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        for index, (images, labels) in enumerate(batches):
            loss = wrapped(images, labels, temperature(epoch * len(batches) + index))
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()


if __name__ == "__main__":
    digits, model = load_dataset("digits"), ViTWithMap()
    train(model)
    right = model.head(model.vit.encode(digits.images)).argmax(1) == digits.labels
    print(f"{right.float().mean():.3f} of the digits are named right")
