"""What arguments that are names may be, for type checkers; at run time the same names are compared where they are used."""

from __future__ import annotations

from typing import Literal

Topology = Literal["rectangular", "hexagonal"]
Distance = Literal["cosine", "sqeuclidean", "euclidean", "manhattan"]
Neighborhood = Literal["gaussian", "bubble", "mexican_hat", "triangle", "manhattan_gaussian"]
Reduction = Literal["mean", "batchmean", "sum", "none"]
Missing = Literal["error", "ignore"]
Schedule = Literal["exponential", "linear", "inverse"]
Initialization = Literal["pca", "sample", "random"]
