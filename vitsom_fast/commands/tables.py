"""``vitsom-fast fit`` and ``vitsom-fast predict``: a map of the rows of a CSV, Parquet or NPY file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitsom_fast import backends
from vitsom_fast.atomic import write_atomically
from vitsom_fast.functional import DISTANCES, MISSING
from vitsom_fast.grid import TOPOLOGIES
from vitsom_fast.initialization import METHODS
from vitsom_fast.neighborhoods import NEIGHBORHOODS
from vitsom_fast.schedules import SCHEDULES

if TYPE_CHECKING:
    from vitsom_fast.som import SOM

Say = Callable[[str], None]

MAP, SCALING, UNITS = "map.safetensors", "scaling.json", "units.csv"
_SUFFIXES = (".csv", ".parquet", ".npy")
_MOST_PLANES = 30

# Settings of SOM that are options here: their defaults, which are SOM's, and their choices where they have some. To ask SOM
# itself takes scikit-learn, which --help can do without.
OPTIONS: dict[str, tuple[Any, tuple[str, ...] | None]] = {
    "metric": ("euclidean", DISTANCES),
    "topology": ("rectangular", TOPOLOGIES),
    "neighborhood": ("gaussian", NEIGHBORHOODS),
    "n_epochs": (20, None),
    "sigma_initial": (None, None),
    "sigma_final": (None, None),
    "schedule": ("exponential", tuple(SCHEDULES)),
    "init": ("pca", METHODS),
    "missing": ("error", MISSING),
    "batch_size": (None, None),
    "random_state": (None, None),
    "device": (None, None),
    "backend": ("auto", ("auto", *backends.NAMES)),
}
SIDE = 10  # rows and columns of the map
_TYPES = {"n_epochs": int, "batch_size": int, "random_state": int, "sigma_initial": float, "sigma_final": float}


def add_commands(commands: Any, say: Say) -> None:
    """Adds ``fit`` to the subparsers of a command line; ``say`` prints a line. ``predict`` is one for tables and runs."""
    fitting = commands.add_parser(
        "fit",
        help="fit a map to the rows of a table and draw it",
        description="Fit a SOM to the numbers of a file; the map, the unit of each row and pictures go to a folder.",
    )
    fitting.add_argument("data", type=Path, help="a .csv with names in its first line, a .parquet, or an .npy of any size")
    fitting.add_argument("--rows", type=int, default=SIDE, help="rows of the map (default: %(default)s)")
    fitting.add_argument("--cols", type=int, default=SIDE, help="columns of the map (default: %(default)s)")
    for name, (default, choices) in OPTIONS.items():
        fitting.add_argument(
            f"--{name.removeprefix('n_').replace('_', '-')}",
            dest=name,
            type=_TYPES.get(name, str),
            choices=choices,
            default=default,
            help="default: %(default)s",
        )
    fitting.add_argument("--periodic", action="store_true", help="join opposite edges of the map")
    fitting.add_argument("--standardize", action="store_true", help="give each feature mean 0 and deviation 1 first")
    fitting.add_argument("--label", metavar="COLUMN", help="the column of classes: no feature, but on a picture")
    fitting.add_argument("--out", type=Path, help="folder of the results (default: NAME-som beside the data)")
    fitting.set_defaults(run=lambda **options: fit(say=say, **options))


def fit(
    data: Path, rows: int, cols: int, standardize: bool, label: str | None, out: Path | None, say: Say, **settings: Any
) -> int:
    """Fits a map and writes it, the unit of each row and pictures; 0."""
    from vitsom_fast.som import SOM

    table, classes = read_table(data, label, say=say)
    out = out or data.with_name(f"{data.stem}-som")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, got the file {str(out)!r}")
    scaling = _scaling(table) if standardize else None
    try:
        som = SOM(rows, cols, verbose=True, **settings).fit(_scaled(table, scaling))
    except ValueError as wrong:
        raise ValueError(str(wrong).replace("missing='ignore'", "--missing ignore")) from wrong
    out.mkdir(parents=True, exist_ok=True)
    som.save(out / MAP)
    write_atomically(out / SCALING, json.dumps(scaling).encode())
    _write_units(out / UNITS, som, som.labels_)
    _draw(out, som, _scaled(table, scaling), classes)
    error = som.quantization_error(_scaled(table, scaling))
    say(f"{len(som.labels_)} rows of {som.n_features_in_} features, {rows} x {cols} units, quantization error {error:.6g}")
    say(f"map, units and pictures: {out}")
    return 0


def predict(data: Path, map: Path, out: Path | None, say: Say) -> int:
    """Writes the unit of each row on a map; 0."""
    from vitsom_fast.som import SOM

    som = SOM.load(map / MAP)
    scaling = json.loads((map / SCALING).read_text()) if (map / SCALING).exists() else None
    names = list(getattr(som, "feature_names_in_", ()))
    table, _ = read_table(data, None, names)
    out = out or data.with_name(f"{data.stem}-units.csv")
    units = som.predict(_scaled(table, scaling))
    _write_units(out, som, units)
    say(f"the units of {len(units)} rows: {out}")
    return 0


def read_table(path: Path, label: str | None = None, names: list[str] | None = None, say: Say | None = None) -> tuple[Any, Any]:
    """The numbers of a file, as a table or something that can be sliced by rows, and the column of labels or None.

    Args:
        names: the columns to take; all that hold numbers if there are none, truth values too.
        say: prints a line: which columns were left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, lacks a column, or holds no numbers; pandas is needed and not there.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"data must be a file of one of {_SUFFIXES}, got {str(path)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"data must be a file, got {str(path)!r}, which is none")
    if path.suffix.lower() == ".npy":
        from vitsom_fast.estimator.npy import NpyRows

        if label is not None:
            raise ValueError(f"label must be the column of a table, got {label!r} for an .npy file")
        return NpyRows(path), None
    try:
        import pandas
    except ImportError as error:
        raise ValueError(f"to read {str(path)!r} takes pandas: pip install vitsom_fast[tables]") from error
    table = pandas.read_csv(path) if path.suffix.lower() == ".csv" else pandas.read_parquet(path)
    table.columns = table.columns.astype(str)
    wanted = [*(names or ()), *([] if label is None else [label])]
    if lacking := [name for name in wanted if name not in table.columns]:
        raise ValueError(f"data must have the columns {wanted}, got {list(table.columns)} without {lacking}")
    labels = None if label is None else table[label].to_numpy(dtype=object)
    features = table.drop(columns=[] if label is None else [label])
    numbers = table[names] if names else features.select_dtypes(include=["number", "bool", "boolean"])
    numbers = numbers.astype(dict.fromkeys(numbers.select_dtypes(include=["bool", "boolean"]), "float64"))
    left_out = [name for name in features if name not in numbers]
    if say is not None and left_out:
        say(f"left out, since not all of it is numbers: {', '.join(left_out)}")
    if numbers.shape[1] < 1 or len(numbers) < 1:
        raise ValueError(f"data must have rows of numbers, got {len(table)} rows of {list(table.columns)}")
    return numbers, labels


def _scaling(table: Any) -> dict[str, list[float]]:
    """Mean and deviation of each feature."""
    if hasattr(table, "to_numpy"):
        x = table.to_numpy(dtype=np.float64)
        mean, deviation = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
    else:
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        for start in range(0, table.shape[0], 1 << 16):
            scaler.partial_fit(table[start : start + (1 << 16)])
        mean, deviation = scaler.mean_, scaler.scale_
    return {"mean": mean.tolist(), "deviation": np.where(deviation > 0, deviation, 1.0).tolist()}


def _scaled(table: Any, scaling: dict[str, list[float]] | None) -> Any:
    if scaling is None:
        return table
    if hasattr(table, "to_numpy"):
        return (table - scaling["mean"]) / scaling["deviation"]
    return _ScaledRows(table, np.array(scaling["mean"]), np.array(scaling["deviation"]))


class _ScaledRows:
    """Rows of a file, scaled slice by slice."""

    dtype = np.dtype(np.float64)

    def __init__(self, rows: Any, mean: Any, deviation: Any) -> None:
        self.shape, self._rows, self._mean, self._deviation = rows.shape, rows, mean, deviation

    def __getitem__(self, rows: slice) -> Any:
        return (self._rows[rows] - self._mean) / self._deviation


def _write_units(path: Path, som: SOM, units: Any) -> None:
    row, column = np.divmod(np.asarray(units), som.n_cols)
    text = io.StringIO()
    np.savetxt(text, np.stack([units, row, column], axis=1), fmt="%d", delimiter=",", header="unit,row,column", comments="")
    write_atomically(path, text.getvalue().encode())


def _draw(out: Path, som: SOM, table: Any, classes: Any) -> None:
    from vitsom_fast import plotting

    figures = {"u_matrix": plotting.plot_u_matrix(som), "hits": plotting.plot_hit_map(som, table)}
    if som.n_features_in_ <= _MOST_PLANES:
        figures["planes"] = plotting.plot_component_planes(som)
    if classes is not None:
        figures["classes"] = plotting.plot_hit_map(som, table, labels=classes)
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        write_atomically(out / f"{name}.png", picture.getvalue())
