"""A result with names of its own, as ``set_output`` asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin


class Named(TransformerMixin, BaseEstimator):
    """Transforms anything into a table, which scikit-learn then gives the names and the container that an estimator is set
    to."""

    def __init__(self, table: NDArray[Any], names: list[str], like: BaseEstimator) -> None:
        self.table, self.names = table, names
        if hasattr(like, "_sklearn_output_config"):
            self._sklearn_output_config = like._sklearn_output_config

    def transform(self, X: Any) -> NDArray[Any]:
        return self.table

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        return np.asarray(self.names, dtype=object)
