"""Who takes part in the comparisons, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vitsom_fast.choices import Distance
from vitsom_fast.training import TrainConfig
from vitsom_fast.training.recipes import recipe


@dataclass(frozen=True)
class Contender:
    """A trained model.

    Attributes:
        config: its settings, but for data, grid, epochs and seed.
        share: its share of the time, in relation to the others.
        one_encoder: whether the maps of all sizes are trained on one encoder; else each has its own, for a part of the time.
    """

    name: str
    config: TrainConfig
    share: float
    one_encoder: bool = True


# Batch SOMs on the pixels, by their distance.
PLAIN: dict[str, Distance] = {"SOM, squared Euclidean": "sqeuclidean", "SOM, cosine": "cosine"}

_PUBLISHED = recipe("usps", image_size=0)
_KEEPS_UP = replace(_PUBLISHED, t_max=0.0, t_min=0.2, prototypes="ema", refit=20)

CLUSTERING = [
    Contender("SOM-VAE", recipe("som-vae"), 1.0, one_encoder=False),
    Contender("DESOM", recipe("desom-2019", t_max=0.0), 0.7),
    Contender("DESOM + consistency", recipe("desom-consistency"), 1.5),
    Contender("ViT-SOM as published", _PUBLISHED, 1.5),
    Contender("ViT-SOM, the map keeps up", _KEEPS_UP, 1.5),
    Contender("ViT-SOM + consistency", recipe("consistency"), 2.0),
]

_CLASSIFIER = replace(
    recipe("consistency"),
    task="classify",
    consistency=0.0,
    refit=0,
    lr=2e-3,
    latent="patches",
    prototypes="gradient",
    depth=4,
    kernel=0,
    grid=(8, 8),
    gamma=0.05,
    drop_path=0.1,
    label_smoothing=0.1,
)

CLASSIFICATION = [
    Contender("ViT", replace(_CLASSIFIER, model="vit"), 1.0),
    Contender("ViT-SOM", _CLASSIFIER, 1.0),
]
