"""The paper's comparisons, made anew: every model on the same images with a budget of its own, as a table."""

from vitsom_fast.reproduction.classification import classification
from vitsom_fast.reproduction.clustering import clustering

__all__ = ["classification", "clustering"]
