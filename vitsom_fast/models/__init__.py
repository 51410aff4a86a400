"""ViT-SOM and the plain SOM that it is compared with."""

from vitsom_fast.models.plain_som import fit_plain_som
from vitsom_fast.models.vit import ViTAutoencoder
from vitsom_fast.models.vit_som import ViTSOM, ViTSOMOutput

__all__ = ["ViTAutoencoder", "ViTSOM", "ViTSOMOutput", "fit_plain_som"]
