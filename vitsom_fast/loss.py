"""FusedSOMLoss: the map as a module that owns its prototypes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from vitsom_fast import backends, neighborhoods
from vitsom_fast.arguments import device_of, whole_number
from vitsom_fast.backends.memory import is_plain
from vitsom_fast.choices import Distance, Initialization, Neighborhood, Reduction, Topology
from vitsom_fast.functional import DISTANCES, DTYPES, REDUCTIONS, check_choice, find_bmu, som_loss
from vitsom_fast.grid import TOPOLOGIES, Grid
from vitsom_fast.initialization import METHODS, initial_prototypes
from vitsom_fast.neighborhoods import NEIGHBORHOODS
from vitsom_fast.usage import UsageWatch

if TYPE_CHECKING:
    from vitsom_fast.som import SOM

_LARGEST_SIZE = (1 << 63) - 1  # bytes of a tensor

_EXTRA_STATE = "_extra_state"  # PyTorch's name for it in a state dict


class FusedSOMLoss(nn.Module):
    """The SOM half of ViT-SOM: add ``gamma * loss(z, temperature)`` to the loss of any encoder.

    Args:
        grid_size: (rows, cols) of the map.
        dim: D, the number of features of a (flattened) latent.
        topology: "rectangular" or "hexagonal".
        periodic: join opposite edges of the map (a torus).
        distance: "cosine", "sqeuclidean", "euclidean" or "manhattan", as in ``som_loss``.
        neighborhood: "gaussian", "bubble", "mexican_hat", "triangle" or "manhattan_gaussian", as in ``som_loss``.
        reduction: "mean" over samples and prototypes (ViT-SOM), "batchmean" (sum over prototypes: DESOM), "sum" or "none".
        backend: "auto" takes the fastest that serves the device and dtype; see ``available_backends``.
        device, dtype: of the prototypes.

    Attributes:
        prototypes: nn.Parameter (K, dim) with K = rows * cols; unit ``k = row * cols + col``.
        grid: the ``Grid``.

    A state dict holds the prototypes and, as a tensor, the grid, the distance and the neighborhood: into another map it does
    not load. One without them loads into any of the same size.

    Raises:
        TypeError, ValueError: an argument of the wrong type or value; the message names it.

    Example:
        >>> som = FusedSOMLoss((3, 4), dim=8)
        >>> loss = som(torch.randn(5, 8, requires_grad=True), 1.5)
        >>> loss.backward()
        >>> som.prototypes.grad.shape
        torch.Size([12, 8])
        >>> bmu, distance = som.find_bmu(som.prototypes[7:9])
        >>> bmu.tolist()
        [7, 8]
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        dim: int,
        *,
        topology: Topology = "rectangular",
        periodic: bool = False,
        distance: Distance = "cosine",
        neighborhood: Neighborhood = "gaussian",
        reduction: Reduction = "mean",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        try:
            rows, cols = () if isinstance(grid_size, str) else grid_size
        except (TypeError, ValueError):
            raise ValueError(f"grid_size must be (rows, cols), got {grid_size!r}") from None
        try:
            dim = whole_number("dim", dim)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if dtype is not None and dtype not in DTYPES:
            raise TypeError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("backend", backend, ("auto", *backends.NAMES))
        self.grid = Grid(rows, cols, topology=topology, periodic=periodic)
        neighborhoods.check(self.grid, neighborhood)
        self.dim = dim
        self.distance = distance
        self.neighborhood = neighborhood
        self.reduction = reduction
        self.backend = backend
        self.prototypes = nn.Parameter(_empty_prototypes(self.grid, dim, device, dtype))
        self._usage = UsageWatch(self.grid.num_prototypes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random directions of length about 1; the cosine distance sees the direction only, its gradient 1 / length."""
        nn.init.normal_(self.prototypes, std=self.dim**-0.5)

    @classmethod
    def from_estimator(cls, som: SOM, **options: Any) -> FusedSOMLoss:
        """The map of a fitted ``SOM``: its prototypes, in fp32 where ``dtype`` says nothing else, its grid, distance and
        neighborhood; ``options`` are those of the constructor."""
        from sklearn.utils.validation import check_is_fitted  # which whoever has a SOM has

        check_is_fitted(som)
        own: dict[str, Any] = {"topology": som.topology, "periodic": som.periodic, "distance": som.metric}
        own |= {"neighborhood": som.neighborhood, "backend": som.backend, "dtype": torch.float32}
        loss = cls((som.n_rows, som.n_cols), som.prototypes_.shape[1], **(own | options))
        with torch.no_grad():
            loss.prototypes.copy_(torch.from_numpy(som.prototypes_))
        return loss

    @torch.no_grad()
    def initialize_(
        self, z: Tensor, *, method: Initialization = "pca", generator: torch.Generator | None = None
    ) -> FusedSOMLoss:
        """Prototypes that begin where the data are; returns the module.

        Args:
            z: latents (N, dim) or (N, ...), N at least 1, of a floating dtype and finite.
            method: "pca", the plane of the two largest principal components through the mean, one standard deviation each way,
                the long side of the map along the first (no randomness); "sample", rows of z, each once as far as there are
                enough; "random", normal with the mean and standard deviation of each feature.
            generator: of the random numbers.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape or value; the message names it.
        """
        check_choice("method", method, METHODS)
        if not isinstance(z, Tensor) or not z.is_floating_point():
            raise TypeError(f"z must be a floating torch.Tensor, got {z.dtype if isinstance(z, Tensor) else type(z).__name__}")
        if z.dim() < 2 or z.shape[0] < 1 or z.shape[1:].numel() != self.dim:
            raise ValueError(
                f"z must have shape (N, {self.dim}) or (N, ...) of as many features, N at least 1, got {tuple(z.shape)}"
            )
        z = z.flatten(1)
        if not z.isfinite().all():
            raise ValueError("z must be finite, got rows that are not")
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        self.prototypes.copy_(initial_prototypes(wide, self.grid, method, generator))
        return self

    @overload
    def forward(
        self,
        z: Tensor,
        temperature: float | Tensor,
        *,
        return_bmu: Literal[False] = False,
        sample_weight: Tensor | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self, z: Tensor, temperature: float | Tensor, *, return_bmu: Literal[True], sample_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        z: Tensor,
        temperature: float | Tensor,
        *,
        return_bmu: bool = False,
        sample_weight: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of latents z (B, dim) or (B, ...), each of its weight (B,), at a neighborhood radius T; with ``return_bmu``
        also the BMUs (B,)."""
        if not torch.compiler.is_compiling():
            self._usage.temperature = math.inf if isinstance(temperature, Tensor) else temperature
        loss, bmu = som_loss(
            z,
            self.prototypes,
            self.grid,
            temperature,
            distance=self.distance,
            neighborhood=self.neighborhood,
            reduction=self.reduction,
            sample_weight=sample_weight,
            backend=self.backend,
        )
        return (loss, bmu) if return_bmu else loss

    if TYPE_CHECKING:
        __call__ = forward  # of nn.Module it is of any type

    def find_bmu(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """BMU (B,) int64 and distance (B,) of every latent; not differentiable.

        On a CPU it warns, once, where a map at a small radius uses fewer than a tenth of its units.
        """
        bmu, distance = find_bmu(z, self.prototypes, distance=self.distance, grid=self.grid, backend=self.backend)
        self._usage.look_at(bmu)
        return bmu, distance

    def get_extra_state(self) -> Tensor:
        """The map as (6,) int64 on the CPU: rows, columns, topology, whether it is periodic, distance, neighborhood. A tensor,
        so that whatever stores tensors by name stores it, too."""
        numbers = [self.grid.rows, self.grid.cols, TOPOLOGIES.index(self.grid.topology), int(self.grid.periodic)]
        numbers += [DISTANCES.index(self.distance), NEIGHBORHOODS.index(self.neighborhood)]
        return torch.tensor(numbers, dtype=torch.int64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is set: a map keeps its grid, its distance and its neighborhood.

        Raises:
            ValueError: the state is that of another map; the message names both.
        """
        if difference := self._difference(state):
            raise ValueError(difference)

    def _difference(self, state: Any) -> str | None:
        """What is wrong where a saved map is not this one; nothing where it cannot be read: a fake tensor, or memory that a
        loader never filled."""
        if not isinstance(state, Tensor) or not is_plain(state):
            return None
        own = self.get_extra_state()[: state.numel()]  # saved before maps had distances: the grid alone
        if torch.equal(state.cpu(), own):
            return None
        saved, here = _map_of(state), _map_of(own)
        return f"prototypes of {saved} cannot be loaded into a map of {here}" if saved else None

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Before anything is copied: prototypes of another map may well have the same shape."""
        key = prefix + _EXTRA_STATE
        if difference := self._difference(state_dict.get(key)):
            error_msgs.append(f"{difference}; without {key!r} they are taken as they are")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if key in missing_keys:  # saved without it
            missing_keys.remove(key)

    def extra_repr(self) -> str:
        return (
            f"grid_size=({self.grid.rows}, {self.grid.cols}), dim={self.dim}, topology={self.grid.topology!r},"
            f" periodic={self.grid.periodic}, distance={self.distance!r}, neighborhood={self.neighborhood!r},"
            f" reduction={self.reduction!r}, backend={self.backend!r}"
        )


def _empty_prototypes(grid: Grid, dim: int, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    dtype = dtype or torch.get_default_dtype()
    if grid.num_prototypes * dim * dtype.itemsize > _LARGEST_SIZE:
        raise ValueError(
            f"grid_size and dim must make prototypes of less than 2^63 bytes, got ({grid.rows}, {grid.cols}) units of {dim}"
            f" features in {dtype}"
        )
    device = None if device is None else device_of(device)
    return torch.empty(grid.num_prototypes, dim, device=device, dtype=dtype)


def _map_of(state: Tensor) -> str | None:
    """What ``get_extra_state`` wrote down, in words, or None."""
    try:
        rows, cols, topology, periodic, *rest = state.tolist()
        if min([topology, *rest]) < 0 or len(rest) not in (0, 2):
            return None
        words = [str(Grid(rows, cols, TOPOLOGIES[topology], (False, True)[periodic]))]
        words += [f"{names[index]!r}" for names, index in zip((DISTANCES, NEIGHBORHOODS), rest, strict=False)]
        return ", ".join(words)
    except (TypeError, ValueError, IndexError):
        return None
