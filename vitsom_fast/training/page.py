"""A run's page: its numbers and pictures in one HTML file, which any browser shows without a server."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

PAGE = "index.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .9em .2em 0; text-align: left; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
figure { margin: 2em 0 } img { max-width: 100%; max-height: 90vh } figcaption { color: #555 }
details { margin: 2em 0 }
"""


def page(report: Mapping[str, Any], pictures: Mapping[str, str], folder: Path) -> bytes:
    """The page of a run.

    Args:
        report: what ``metrics.json`` holds.
        pictures: file names in ``folder`` and what they show; those that are not there are left out.
    """
    config = report["config"]
    title = f"{config['model']} on {report['dataset']['name']}, {' x '.join(map(str, config['grid']))} units"
    parts = [f"<h1>{escape(title)}</h1>", _table(["", "trained", "plain SOM"], _numbers(report))]
    if report["failed"]:
        parts += ["<h2>What is missing</h2>", _table(["part", "why"], [list(each) for each in report["failed"].items()])]
    for name, caption in pictures.items():
        if (folder / name).exists():
            data = b64encode((folder / name).read_bytes()).decode()
            image = f'<img src="data:image/png;base64,{data}" alt="{escape(name)}">'
            parts.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
    settings = [[name, _text(value)] for name, value in config.items()]
    parts.append(f"<details><summary>Settings</summary>{_table(['setting', 'value'], settings)}</details>")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'.encode()


def _numbers(report: Mapping[str, Any]) -> list[list[str]]:
    plain = report["plain_som"] or {}
    rows: list[list[Any]] = [
        [name.replace("_", " "), report[name], plain.get(name)]
        for name in ("purity", "nmi", "quantization_error", "topographic_error")
    ]
    rows += [[f"accuracy, {half}", value, None] for half, value in (report["accuracy"] or {}).items()]
    rows += [[f"{name}, held out", value, None] for name, value in (report["held_out"] or {}).items()]
    rows += [["loss, last epoch", (report.get("loss_per_epoch") or [None])[-1], None]]
    rows += [["parameters", report["parameters"], None], ["epochs", len(report["seconds_per_epoch"]), None]]
    rows += [["training, s", sum(report["seconds_per_epoch"]), None], ["images", report["dataset"]["images"][0], None]]
    return [[name, _text(value), _text(other)] for name, value, other in rows if value is not None]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"
