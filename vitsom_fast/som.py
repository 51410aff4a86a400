"""SOM: the batch map of rows of a table, as an estimator of scikit-learn."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from vitsom_fast import backends, metrics
from vitsom_fast.arguments import whole_number
from vitsom_fast.backends.spec import Spec
from vitsom_fast.choices import Distance, Missing, Neighborhood, Schedule, Topology
from vitsom_fast.estimator import files, ranks, settings
from vitsom_fast.estimator.epoch import Epoch, Map
from vitsom_fast.estimator.frame import Frame
from vitsom_fast.estimator.inputs import computing_device, rows_of
from vitsom_fast.estimator.means import mean_over
from vitsom_fast.estimator.moments import start
from vitsom_fast.estimator.plain import plain
from vitsom_fast.estimator.rows import Rows
from vitsom_fast.estimator.transform import Transformer
from vitsom_fast.grid import Grid
from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.progress import progress_bar

# Numbers of rows at a time for each thread, where nothing else is asked for: 1 MB stays near a core. On a GPU 256 MB, for some
# sixty launches a chunk. And rows: one for each two units, for what is done once a chunk for all units.
_NUMBERS, _NUMBERS_ELSEWHERE, _FEWEST = 1 << 18, 1 << 26, 1024


class SOM(Transformer, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A Self-Organizing Map of rows, trained by the batch rule (Kohonen 2001, section 3.6): every epoch finds the unit of each
    row, then moves each prototype to the mean of all rows, weighted with the neighborhood of their units.

    One epoch reads every row once and holds O(K D + chunk) numbers beside the data, which may be larger than memory. The same
    inputs give the same bits with as many threads (``torch.set_num_threads``); the size of the chunks changes the order of
    sums only.

    Args:
        n_rows, n_cols: size of the map, K = n_rows * n_cols units; unit ``k = row * n_cols + col``.
        metric: "euclidean", "sqeuclidean", "manhattan" or "cosine" (prototypes are then means of directions).
        topology: "rectangular" or "hexagonal".
        periodic: join opposite edges of the map (a torus).
        neighborhood: "gaussian", "bubble", "mexican_hat", "triangle" or "manhattan_gaussian". Under a Mexican hat a unit whose
            weights, of both signs, cancel stays where it is, as in ``batch_update``.
        n_epochs: passes over the data, at least 1.
        sigma_initial: neighborhood radius of the first epoch, in units of the grid. None: a quarter of the longer side where
            the prototypes begin in order ("pca", an array), half of it where they have to unfold first ("sample", "random"); at
            least 1.
        sigma_final: that of the last epoch. None: 0.5, where the nearest units pull with exp(-2), or ``sigma_initial`` where
            that is less.
        schedule: "exponential", "linear" or "inverse": how the radius shrinks.
        init: "pca", on the plane of the two largest variances, one standard deviation each way (no randomness); "sample", rows
            at random; "random", normal with the mean and deviation of each feature; or an array of prototypes (K, D) or
            (n_rows, n_cols, D).
        missing: "error", or "ignore": a NaN is a feature that was not measured; distances and means leave it out, and errors
            a row that has none. In PyTorch operations, slower than without.
        batch_size: rows of a chunk; None: as many as stay near the processor, and no fewer than half as many as there are
            units.
        random_state: an int, a ``numpy.random.RandomState`` or None, for "sample" and "random".
        device: where to compute; None: where a tensor X lies, else the CPU.
        backend: "auto" or a name of ``available_backends``.
        verbose: show a bar of epochs with the quantization error.

    Attributes:
        prototypes_: (K, D) float64.
        labels_: (N,) int32, the unit of each row that was fitted; of a Dask collection a Dask array.
        n_iter_: epochs that were finished.
        history_: for each epoch, the mean distance of the rows to their units as the epoch found them, before it moved them.
            Of (squared) Euclidean distances it is what the search has for nothing, where each is right to about 1e-3 of the
            spread of the prototypes; ``quantization_error`` is exact.
        n_features_in_, feature_names_in_: as scikit-learn keeps them.

    X may be an array, a table (pandas, polars), a tensor on any device, a scipy.sparse matrix, a Dask array or dataframe; what
    has a shape (N, D) and can be sliced by rows, as np.memmap, h5py and zarr can; or an iterable of chunks of rows that begins
    anew each time. The last two are read a chunk ahead. Where torch.distributed is initialised, each rank passes its own rows,
    all call ``fit`` and ``score`` together, and all get the same map.

    Raises (``fit``):
        TypeError, ValueError: an argument of the wrong type, shape or value; the message names it.

    Example:
        >>> rows = np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]])
        >>> som = SOM(1, 2, sigma_final=0.1).fit(rows)
        >>> (som.labels_ == som.labels_[0]).tolist()
        [True, True, False, False]
        >>> som.prototypes_.round(2).tolist() in ([[0.05, 0.0], [5.05, 5.0]], [[5.05, 5.0], [0.05, 0.0]])
        True
    """

    def __init__(
        self,
        n_rows: int = 10,
        n_cols: int = 10,
        *,
        metric: Distance = "euclidean",
        topology: Topology = "rectangular",
        periodic: bool = False,
        neighborhood: Neighborhood = "gaussian",
        n_epochs: int = 20,
        sigma_initial: float | None = None,
        sigma_final: float | None = None,
        schedule: Schedule = "exponential",
        init: Any = "pca",
        missing: Missing = "error",
        batch_size: int | None = None,
        random_state: Any = None,
        device: torch.device | str | None = None,
        backend: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_rows = n_rows
        self.n_cols = n_cols
        self.metric = metric
        self.topology = topology
        self.periodic = periodic
        self.neighborhood = neighborhood
        self.n_epochs = n_epochs
        self.sigma_initial = sigma_initial
        self.sigma_final = sigma_final
        self.schedule = schedule
        self.init = init
        self.missing = missing
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.backend = backend
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> SOM:
        """Train a new map on rows X (N, D); ``y`` is ignored, ``sample_weight`` (N,) is not negative: a row of weight 2 counts
        as one that is there twice. Ctrl-C ends it with the map of the last finished epoch, and a warning that says so."""
        settings.check(self)
        rows = self._rows(X, sample_weight, reset=True)
        with plain():
            begin = start(
                rows,
                self.grid,
                self.metric,
                settings.initial(self, rows),
                self._random(),
                self._chunk(rows),
            )
            self.n_iter_, self.history_ = 0, list[float]()
            self._train(rows, begin.frame, begin.prototypes, self.n_epochs)
        self.labels_ = self._units(rows)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> SOM:
        """One more epoch, on rows X (N, D) alone, at the radius that the schedule has for epoch ``n_iter_``; the first call
        begins a map as ``fit`` does. ``n_epochs`` calls with the same rows are one ``fit``; rows of other calls are not
        remembered, so each should be many against the units within reach."""
        settings.check(self)
        if not hasattr(self, "prototypes_"):
            rows = self._rows(X, sample_weight, reset=True)
            begin = start(rows, self.grid, self.metric, settings.initial(self, rows), self._random(), self._chunk(rows))
            self.n_iter_, self.history_ = 0, []
            frame, prototypes = begin.frame, begin.prototypes
        else:
            rows = self._rows(X, sample_weight)
            som = self._map(rows, ranks.same)
            frame, prototypes = som.frame, som.prototypes
        with plain():
            self._train(rows, frame, prototypes, 1)
        self.labels_ = self._units(rows)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """The unit of each row, (N,) int32, on the map that ``fit`` makes of them."""
        return self.fit(X, y, sample_weight).labels_

    def predict(self, X: Any) -> Any:
        """The unit of each row of X (N, D): (N,) int32, the lowest index on ties."""
        check_is_fitted(self)
        return self._units(self._rows(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The negative of ``quantization_error``: the larger, the better."""
        return -self.quantization_error(X, sample_weight)

    def quantization_error(self, X: Any, sample_weight: Any = None) -> float:
        """The mean distance of the rows X (N, D) to their units, in the metric (Kohonen 2001, section 2.9)."""
        check_is_fitted(self)
        rows = self._rows(X, sample_weight)
        som = self._map(rows)
        with plain():
            return mean_over(rows, lambda x: som.nearest(x)[1], self._chunk(rows))

    def topographic_error(self, X: Any, sample_weight: Any = None) -> float:
        """The share of rows X (N, D) whose two nearest units are no neighbours on the grid (Kiviluoto 1996)."""
        check_is_fitted(self)
        rows = self._rows(X, sample_weight)
        som = self._map(rows)
        if len(som.prototypes) < 2:
            return 0.0
        with plain():
            return mean_over(rows, lambda x: metrics.are_apart(som.grid, som.nearest_two(x)[0]), self._chunk(rows))

    def u_matrix(self) -> NDArray[np.float32]:
        """(n_rows, n_cols): the mean distance of each prototype to those of its neighbours, in the metric."""
        return metrics.u_matrix(torch.from_numpy(settings.fitted_prototypes(self)), self.grid, distance=self.metric).numpy()

    def hit_map(self, X: Any) -> NDArray[np.int64]:
        """(n_rows, n_cols): how many rows of X (N, D) each unit wins."""
        units = np.asarray(self.predict(X))
        return np.bincount(units, minlength=self.grid.num_prototypes).reshape(self.n_rows, self.n_cols)

    @property
    def grid(self) -> Grid:
        """The map's units and where they lie."""
        whole_number("n_rows", self.n_rows)
        whole_number("n_cols", self.n_cols)
        return Grid(self.n_rows, self.n_cols, topology=self.topology, periodic=self.periodic)

    @classmethod
    def from_prototypes(cls, prototypes: Any, n_rows: int | None = None, n_cols: int | None = None, **options: Any) -> SOM:
        """A fitted map of given prototypes.

        Args:
            prototypes: (n_rows, n_cols, D), as MiniSom's ``get_weights()``, or (K, D) with ``n_rows`` and ``n_cols``; finite.
            options: of the constructor.
        """
        table = (
            prototypes.detach().cpu().double().numpy()
            if isinstance(prototypes, Tensor)
            else settings.as_numbers("prototypes", prototypes)
        )
        if table.ndim == 3:
            if (n_rows or table.shape[0], n_cols or table.shape[1]) != table.shape[:2]:
                raise ValueError(f"prototypes must have shape ({n_rows}, {n_cols}, D), got {table.shape}")
            n_rows, n_cols = table.shape[:2]
        if n_rows is None or n_cols is None:
            raise ValueError(
                f"n_rows and n_cols must be given for prototypes of shape {table.shape}, got {n_rows} and {n_cols}"
            )
        som = cls(n_rows, n_cols, **options)
        settings.check(som)
        som.prototypes_ = settings.checked_prototypes("prototypes", table, som.grid).copy()
        som.n_features_in_ = som.prototypes_.shape[1]
        som.n_iter_, som.history_ = 0, []
        return som

    @classmethod
    def from_loss(cls, loss: Any, **options: Any) -> SOM:
        """A fitted map of the prototypes, the grid and the distance of a ``FusedSOMLoss``."""
        if not isinstance(loss, FusedSOMLoss):
            raise TypeError(f"loss must be a FusedSOMLoss, got {loss!r}")
        own: dict[str, Any] = {"metric": loss.distance, "neighborhood": loss.neighborhood, "backend": loss.backend}
        own |= {"topology": loss.grid.topology, "periodic": loss.grid.periodic}
        return cls.from_prototypes(loss.prototypes, loss.grid.rows, loss.grid.cols, **(own | options))

    def save(self, path: str | Path) -> None:
        """Write the fitted map and its settings as a safetensors file, which is whole or not there at any moment."""
        check_is_fitted(self)
        files.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> SOM:
        """The map that ``save`` wrote. Nothing in the file is executed.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no map.
        """
        return files.load(cls, Path(path))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "prototypes_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.missing == "ignore"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_rows * self.n_cols

    def _train(self, rows: Rows, frame: Frame, prototypes: Tensor, epochs: int) -> None:
        """So many epochs from prototypes (K, D) fp32 as they are seen in the frame."""
        temperature = settings.temperature(self)
        backend = self._backend(rows)
        first, size = self.n_iter_, self._chunk(rows)
        try:
            with progress_bar(epochs, 0, shown=bool(self.verbose)) as advance:
                for epoch in range(first, first + epochs):
                    work = Epoch(Map(self.grid, self.metric, self.missing, backend, frame, prototypes))
                    sigma = temperature(epoch)
                    prototypes, error = work.updated(rows.add_up(work, size), sigma, self.neighborhood)
                    self.history_.append(error)
                    self.n_iter_ = epoch + 1
                    advance({"quantization error": error, "sigma": sigma})
        except KeyboardInterrupt:
            if self.n_iter_ == first:
                raise
            warnings.warn(
                f"stopped in epoch {self.n_iter_ + 1} of {first + epochs}: the map is that of epoch {self.n_iter_}",
                stacklevel=3,
            )
        self.prototypes_ = frame.given(prototypes).cpu().numpy()

    def _units(self, rows: Rows) -> Any:
        som = self._map(rows)
        with plain():
            return rows.map(functools.partial(_numbers_of_units, som), self._chunk(rows))

    def _map(self, rows: Rows, agreed: Callable[[Tensor], Tensor] = lambda size: size) -> Map:
        """The fitted prototypes, as seen from where they are, in a unit of their size; or of how far the first rows are, where
        all are in one place. Ranks that add up what they see have to see it in the same frame: ``agreed``."""
        given = torch.from_numpy(settings.fitted_prototypes(self)).to(rows.device)
        centre = given.mean(dim=0)
        about = given - centre
        if not about.any():
            first = rows.first(self._chunk(rows)).to(centre) - centre
            about = agreed(first.nan_to_num(0.0).abs().amax(dim=0))[None]
        largest = about.abs().amax().clamp_min(torch.finfo(about.dtype).tiny)
        deviation = (about / largest).square().mean(dim=0).sqrt() * largest
        frame = Frame.around(self.metric, centre, deviation, rows.dtype)
        return Map(self.grid, self.metric, self.missing, self._backend(rows), frame, frame.exact(given).float())

    def _random(self) -> np.random.RandomState | None:
        """What draws prototypes, where some are to be drawn."""
        try:
            random = check_random_state(self.random_state)
        except ValueError as error:
            expected = "random_state must be an int from 0 to 2**32 - 1, a numpy.random.RandomState or None"
            raise ValueError(f"{expected}, got {self.random_state!r}") from error
        return random if isinstance(self.init, str) and self.init in ("sample", "random") else None

    def _rows(self, X: Any, sample_weight: Any = None, *, reset: bool = False) -> Rows:
        device = None if self.device is None else computing_device(self.device)
        return rows_of(self, X, sample_weight, missing=self.missing, device=device, reset=reset)

    def _chunk(self, rows: Rows) -> int:
        if self.batch_size is not None:
            return int(self.batch_size)
        numbers = _NUMBERS * torch.get_num_threads() if rows.device.type == "cpu" else _NUMBERS_ELSEWHERE
        return max(_FEWEST, numbers // rows.dim, self.n_rows * self.n_cols // 2)

    def _backend(self, rows: Rows) -> str:
        return backends.resolve(self.backend, Spec(rows.device, torch.float32, self.metric))


def _numbers_of_units(som: Map, x: Tensor) -> Tensor:
    return som.units(x).int()
