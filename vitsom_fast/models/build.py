"""A model out of its spec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models import pretrained
from vitsom_fast.models.averaged import AveragedSOM
from vitsom_fast.models.classifier import ViTClassifier
from vitsom_fast.models.dense import DenseAutoencoder
from vitsom_fast.models.desom import DESOM
from vitsom_fast.models.map_model import MapModel
from vitsom_fast.models.som_vae import SOMVAE
from vitsom_fast.models.spec import ModelSpec
from vitsom_fast.models.vision_transformer import VisionTransformer
from vitsom_fast.models.vit import ViTAutoencoder
from vitsom_fast.models.vit_som import ViTSOM


def build(spec: ModelSpec, backend: str = "auto") -> MapModel | ViTClassifier:
    """An untrained model; its weights come from PyTorch's random numbers.

    Args:
        spec: "compact" and "vit-som" take the sizes of a ViT (a "compact" one has patches as latents, and neither ``kernel``
            nor ``drop_path``); "desom" and "som-vae" ``latent_dim`` and ``normalize``. The map of a "som-vae" has squared
            Euclidean distances.
        backend: of the map.

    Raises:
        ValueError: sizes or choices that do not fit together; the message names them.
    """
    model = _build(spec, backend)
    model.spec = spec
    return model


def load_model(run: Path | str, backend: str = "auto") -> MapModel | ViTClassifier:
    """The model of whatever kind that a finished run or ``save_pretrained`` left in a folder, for evaluation, on the CPU.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or none of ours; the message names it.
    """
    model: MapModel | ViTClassifier = pretrained.load(run, build, backend)
    return model


def _build(spec: ModelSpec, backend: str) -> MapModel | ViTClassifier:
    if spec.kind == "vit":
        return ViTClassifier(_vit(replace(spec, decoder_depth=0)), spec.num_classes, label_smoothing=spec.label_smoothing)
    if spec.kind in ("desom", "som-vae"):
        dense = DenseAutoencoder(spec.image_shape, latent_dim=spec.latent_dim, normalize=spec.normalize)
        if spec.kind == "som-vae":
            return SOMVAE(dense, make_som(replace(spec, distance="sqeuclidean"), dense.latent_dim, backend))
        return DESOM(
            dense,
            make_som(spec, dense.latent_dim, backend),
            reconstruction_beta=spec.reconstruction_beta,
            squared_error=spec.squared_error,
            consistency=spec.consistency,
        )
    vit: ViTAutoencoder | VisionTransformer = _compact(spec) if spec.kind == "compact" else _vit(spec)
    return ViTSOM(
        vit,
        make_som(spec, vit.latent_dim, backend),
        reconstruction_beta=spec.reconstruction_beta,
        squared_error=spec.squared_error,
        consistency=spec.consistency,
        num_classes=spec.num_classes,
        label_smoothing=spec.label_smoothing,
    )


def make_som(spec: ModelSpec, dim: int, backend: str = "auto") -> FusedSOMLoss:
    """The map of a spec, on latents of ``dim`` features."""
    kind = AveragedSOM if spec.prototypes == "ema" else FusedSOMLoss
    return kind(
        spec.grid,
        dim,
        topology=spec.topology,
        periodic=spec.periodic,
        distance=spec.distance,
        neighborhood=spec.neighborhood,
        reduction=spec.reduction,
        backend=backend,
    )


def _compact(spec: ModelSpec) -> ViTAutoencoder:
    return ViTAutoencoder(
        spec.image_shape,
        patch=spec.patch,
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
        decoder_width=spec.decoder_width,
        decoder_depth=spec.decoder_depth,
        mlp_ratio=spec.mlp_ratio,
    )


def _vit(spec: ModelSpec) -> VisionTransformer:
    return VisionTransformer(
        spec.image_shape,
        patch=spec.patch,
        kernel=spec.kernel,
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
        mlp_ratio=spec.mlp_ratio,
        drop_path=spec.drop_path,
        latent=spec.latent,
        latent_dim=spec.latent_dim,
        decoder_width=spec.decoder_width,
        decoder_depth=spec.decoder_depth,
    )
