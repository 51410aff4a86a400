"""``SOM.transform``: the distances of rows to all units, or their places on the map."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from vitsom_fast.backends.distances.all_pairs import all_pairs
from vitsom_fast.estimator.tables import Named
from vitsom_fast.functional import check_choice

OUTPUTS = ("distances", "coordinates")

# Distances to all units at a time: 32 MB in fp64.
_PAIRS = 1 << 22


class Transformer:
    """``transform`` and ``fit_transform`` outside of what scikit-learn wraps: the names of the columns depend on what is asked
    for."""

    def fit_transform(self: Any, X: Any, y: Any = None, sample_weight: Any = None, *, output: str = "distances") -> Any:
        """``fit``, then ``transform`` of the same rows."""
        check_choice("output", output, OUTPUTS)
        return self.fit(X, y, sample_weight).transform(X, output=output)

    def transform(self: Any, X: Any, *, output: str = "distances") -> Any:
        """Each row as its distances to all units, or as its place on the map.

        Args:
            X: rows (N, D), as ``fit`` takes them.
            output: "distances", (N, K) in the metric; or "coordinates", (N, 2): where the unit of a row lies, across the rows
                and along the columns of the grid, in units of the grid.

        Returns:
            An array in the dtype of X, computed in chunks; a table where ``set_output`` asks for one.
        """
        check_is_fitted(self)
        check_choice("output", output, OUTPUTS)
        rows = self._rows(X)
        som = self._map(rows)
        if output == "coordinates":
            places = som.grid.positions
            table = rows.map(lambda x: places[som.units(x).cpu()].to(rows.dtype), self._chunk(rows))
            names = ["row", "column"]
        else:
            v = som.frame.exact(torch.from_numpy(self.prototypes_).to(rows.device))
            size = max(1, min(self._chunk(rows), _PAIRS // len(v)))

            def distances(x: Tensor) -> Tensor:
                return som.frame.distance(all_pairs(som.frame.exact(x), v, som.metric)).to(rows.dtype)

            table = rows.map(distances, size)
            names = [str(name) for name in self.get_feature_names_out()]
        return Named(table, names, self).transform(X)
