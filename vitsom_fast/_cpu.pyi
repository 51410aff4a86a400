# The compiled module of csrc/cpu: addresses, sizes and strides, which the caller guarantees.
saved_per_sample: int
saved_per_prototype: int
lifted: int

class Problem:
    def __init__(
        self,
        z: int,
        z_stride: int,
        prototypes: int,
        prototype_stride: int,
        dtype: int,
        batch: int,
        num_prototypes: int,
        dim: int,
        threads: int,
        map_rows: int,
        map_cols: int,
        is_squared: bool,
        /,
    ) -> None: ...

class Neighborhood:
    def __init__(self, rows: int, cols: int, terms: int, row_factors: int, col_factors: int, /) -> None: ...

class SearchCounts:
    pruned: int
    int8: int
    bf16: int
    grouped: int
    small: int
    fp32: int
    narrow: int
    fp64: int
    candidates: int
    tiles: int

def find_bmu(problem: Problem, wanted: int, rooted: bool, bmu: int, distance: int, /) -> SearchCounts: ...
def som_forward(
    problem: Problem, neighborhood: Neighborhood, scale: float, loss: int, bmu: int, attraction: int, context: int, /
) -> None: ...
def som_backward(
    problem: Problem,
    neighborhood: Neighborhood,
    scale: float,
    bmu: int,
    attraction: int,
    context: int,
    grad_z: int,
    grad_prototypes: int,
    /,
) -> None: ...
def lift(problem: Problem, z: int, prototypes: int, stride: int, /) -> None: ...
def squared_losses(
    problem: Problem, neighborhood: Neighborhood, bmu: int, attraction: int, context: int, losses: int, /
) -> bool: ...
def squared_gradients(
    problem: Problem,
    neighborhood: Neighborhood,
    bmu: int,
    attraction: int,
    context: int,
    shares: int,
    grad_z: int,
    grad_prototypes: int,
    /,
) -> None: ...
def sum_by_bmu(
    x: int,
    stride: int,
    dtype: int,
    batch: int,
    dim: int,
    bmu: int,
    num_units: int,
    threads: int,
    sums: int,
    counts: int,
    /,
) -> None: ...
def add_by_bmu(
    x: int, stride: int, dtype: int, batch: int, dim: int, bmu: int, num_units: int, threads: int, sums: int, /
) -> None: ...
def add_nearest(problem: Problem, centre: int, unit: float, squared: bool, sums: int, left: int, /) -> tuple[int, float]: ...
def smooth(x: int, dim: int, neighborhood: Neighborhood, threads: int, out: int, /) -> None: ...
def pair_losses(problem: Problem, neighborhood: Neighborhood, distance: str, bmu: int, losses: int, /) -> None: ...
def pair_gradients(
    problem: Problem,
    neighborhood: Neighborhood,
    distance: str,
    grad_losses: int,
    bmu: int,
    grad_z: int,
    grad_prototypes: int,
    /,
) -> None: ...
def search_manhattan(problem: Problem, bmu: int, distance: int, /) -> None: ...
def instruction_sets() -> list[str]: ...
def selected() -> str: ...
