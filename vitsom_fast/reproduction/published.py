"""What the paper reports (Luo & Yuan, IEEE SPL 2025): means over five runs, on the data sets named."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A score of the paper: accuracy or purity in [0, 1]."""

    model: str
    data: str
    score: float
    deviation: float | None
    parameters: str


_CLUSTERING: dict[str, tuple[str, tuple[tuple[float, float], ...]]] = {
    "SOM (24x24)": ("451K", ((0.711, 0.005), (0.668, 0.002), (0.732, 0.009))),
    "SOM-VAE": ("3.7M", ((0.868, 0.03), (0.739, 0.002), (0.854, 0.010))),
    "DESOM": ("3.3M", ((0.934, 0.004), (0.751, 0.009), (0.857, 0.011))),
    "ViT-SOM (24x24)": ("2.5M", ((0.936, 0.003), (0.817, 0.002), (0.935, 0.006))),
    "ViT-SOM (40x40)": ("5.0M", ((0.955, 0.001), (0.841, 0.006), (0.948, 0.025))),
}
_CLASSIFICATION: dict[str, tuple[str, tuple[tuple[float, float | None], ...]]] = {
    "ViT": ("5.4M", tuple((score, None) for score in (0.901, 0.604, 0.884, 0.957, 0.496, 0.835))),
    "ViT-SOM": ("5.4M", ((0.920, 0.003), (0.683, 0.006), (0.917, 0.002), (0.966, 0.001), (0.502, 0.008), (0.844, 0.004))),
}

CLUSTERING = [
    Published(model, data, *score, parameters)
    for model, (parameters, scores) in _CLUSTERING.items()
    for data, score in zip(("MNIST", "Fashion-MNIST", "USPS"), scores, strict=True)
]
CLASSIFICATION = [
    Published(model, data, *score, parameters)
    for model, (parameters, scores) in _CLASSIFICATION.items()
    for data, score in zip(("CIFAR-10", "CIFAR-100", "Flowers17", "SVHN", "Tiny-ImageNet", "MedMNIST"), scores, strict=True)
]
