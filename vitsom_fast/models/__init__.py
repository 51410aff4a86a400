"""ViT-SOM, the models that it is compared with, and what they are made of."""

from vitsom_fast.models.averaged import AveragedSOM
from vitsom_fast.models.build import build, load_model, make_som
from vitsom_fast.models.classifier import ViTClassifier
from vitsom_fast.models.consistency import affine_views, info_nce
from vitsom_fast.models.dense import DenseAutoencoder
from vitsom_fast.models.desom import DESOM, desom_as_configured, desom_as_first_published
from vitsom_fast.models.map_bank import MapBank
from vitsom_fast.models.map_model import MapModel, Prediction, class_of_units
from vitsom_fast.models.plain_som import fit_plain_som
from vitsom_fast.models.presets import PRESETS, Preset, preset
from vitsom_fast.models.sharded import shard
from vitsom_fast.models.som_autoencoder import SOMAutoencoder, ViTSOMOutput
from vitsom_fast.models.som_vae import SOMVAE
from vitsom_fast.models.spec import ModelSpec
from vitsom_fast.models.step import Model, Step
from vitsom_fast.models.vision_transformer import VisionTransformer
from vitsom_fast.models.vit import ViTAutoencoder
from vitsom_fast.models.vit_som import ViTSOM

__all__ = [
    "DESOM",
    "PRESETS",
    "SOMVAE",
    "AveragedSOM",
    "DenseAutoencoder",
    "MapBank",
    "MapModel",
    "Model",
    "ModelSpec",
    "Prediction",
    "Preset",
    "SOMAutoencoder",
    "Step",
    "ViTAutoencoder",
    "ViTClassifier",
    "ViTSOM",
    "ViTSOMOutput",
    "VisionTransformer",
    "affine_views",
    "build",
    "class_of_units",
    "desom_as_configured",
    "desom_as_first_published",
    "fit_plain_som",
    "info_nce",
    "load_model",
    "make_som",
    "preset",
    "shard",
]
