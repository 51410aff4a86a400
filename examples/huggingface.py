"""Hugging Face's ``ViTForImageClassification`` with a map on its class token or all of its patches, and their ``Trainer``."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from vitsom_fast import FusedSOMLoss, exponential_decay, param_groups
from vitsom_fast.data import load_dataset

CONFIG: dict[str, Any] = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
CONFIG |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class ViTWithMap(ViTForImageClassification):
    """``config.som_latent`` is "cls" or "patches", as in the paper."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        patches = (config.image_size // config.patch_size) ** 2
        dim = config.hidden_size * (patches if config.som_latent == "patches" else 1)
        self.som = FusedSOMLoss((8, 8), dim=dim)
        self.temperature = 4.0
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, FusedSOMLoss):  # what a file lacks, from_pretrained leaves uninitialised
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def latents(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:] if self.config.som_latent == "patches" else tokens[:, 0]

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> ImageClassifierOutput:
        tokens = self.vit(pixel_values).last_hidden_state  # [B, 1 + patches, hidden_size]
        logits = self.classifier(tokens[:, 0])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits, labels) + 0.5 * self.som(self.latents(tokens), self.temperature)
        return ImageClassifierOutput(loss=loss, logits=logits)


class Cooling(TrainerCallback):
    """The radius of the neighborhood, before each step."""

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.temperature = exponential_decay(4.0, 0.5, state.max_steps)(state.global_step)


def train(model: ViTWithMap, steps: int = 300) -> None:
    digits = load_dataset("digits")
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(digits.images, digits.labels, strict=True)]
    optimizer = torch.optim.AdamW(param_groups(model, model.som, lr=5e-3))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=128, save_strategy="no", report_to=[], use_cpu=True
        )
        Trainer(model, settings, train_dataset=rows, optimizers=(optimizer, None), callbacks=[Cooling()]).train()


if __name__ == "__main__":
    digits = load_dataset("digits")
    for latent in ("cls", "patches"):
        model = ViTWithMap(ViTConfig(**CONFIG, som_latent=latent))
        train(model)
        right = model.eval()(digits.images).logits.argmax(1) == digits.labels
        print(f"{latent}: {right.float().mean():.3f} of the digits are named right")
