# The compiled module of csrc/cuda: addresses, sizes and strides, which the caller guarantees.
DEVICE_TYPE: str

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
        /,
    ) -> None: ...

class Neighborhood:
    def __init__(self, rows: int, cols: int, terms: int, row_factors: int, col_factors: int, /) -> None: ...

class Execution:
    def __init__(self, device: int, stream: int, workspace: int, /) -> None: ...

def find_bmu_workspace(problem: Problem, /) -> int: ...
def som_forward_workspace(problem: Problem, neighborhood: Neighborhood, /) -> int: ...
def som_backward_workspace(problem: Problem, /) -> int: ...
def sums_workspace(batch: int, num_prototypes: int, /) -> int: ...
def smooth_workspace(neighborhood: Neighborhood, dim: int, /) -> int: ...
def gaussian_weights(
    on: Execution, squared_offsets: int, count: int, radius: float, temperature: int, weights: int, /
) -> None: ...
def find_bmu(on: Execution, problem: Problem, bmu: int, distance: int, /) -> None: ...
def som_forward(
    on: Execution,
    problem: Problem,
    neighborhood: Neighborhood,
    scale: float,
    loss: int,
    bmu: int,
    attraction: int,
    context: int,
    /,
) -> None: ...
def som_backward(
    on: Execution,
    problem: Problem,
    neighborhood: Neighborhood,
    scale: float,
    grad_loss: int,
    attraction: int,
    context: int,
    grad_z: int,
    grad_prototypes: int,
    /,
) -> None: ...
def sum_by_bmu(
    on: Execution,
    x: int,
    stride: int,
    dtype: int,
    batch: int,
    dim: int,
    bmu: int,
    num_prototypes: int,
    sums: int,
    counts: int,
    /,
) -> None: ...
def add_by_bmu(
    on: Execution, x: int, stride: int, dtype: int, batch: int, dim: int, bmu: int, num_prototypes: int, sums: int, /
) -> None: ...
def smooth(
    on: Execution, neighborhood: Neighborhood, transposed: bool, x: int, stride: int, dim: int, smoothed: int, /
) -> None: ...
def driver_version() -> int: ...
def runtime_version() -> int: ...
def lowest_architecture() -> int: ...
