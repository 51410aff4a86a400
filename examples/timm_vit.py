"""timm's ``VisionTransformer`` with a map on its flattened patches, as in the paper."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from vitsom_fast import FusedSOMLoss, exponential_decay, param_groups
from vitsom_fast.data import load_dataset

SIZES = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 32, "depth": 2, "num_heads": 2}


class ViTWithMap(VisionTransformer):
    def __init__(self, **settings: int) -> None:
        super().__init__(**settings)
        self.som = FusedSOMLoss((8, 8), dim=self.patch_embed.num_patches * self.embed_dim)
        self.temperature = 4.0

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        tokens = self.forward_features(images)  # [B, 1 + patches, embed_dim]
        som = self.som(tokens[:, self.num_prefix_tokens :], self.temperature)
        return F.cross_entropy(self.forward_head(tokens), labels) + 0.5 * som


def train(model: ViTWithMap, steps: int = 300) -> None:
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
    digits, model = load_dataset("digits"), ViTWithMap(**SIZES)
    train(model)
    model.eval()
    with torch.no_grad():
        right = model.forward_head(model.forward_features(digits.images)).argmax(1) == digits.labels
    print(f"{right.float().mean():.3f} of the digits are named right")
