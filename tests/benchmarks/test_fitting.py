"""The study of whole fits, on one small case."""

from __future__ import annotations

import pytest

from benchmarks.studies import fitting


def test_a_tiny_case_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert fitting.main(["--tiny", "--rounds", "1"]) == 0
    assert "vitsom_fast" in capsys.readouterr().out


def test_another_map_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = fitting.contenders()["vitsom_fast"]
    worse = {"vitsom_fast": ours, "other": lambda x, init, *_: init.reshape(-1, init.shape[2])}
    monkeypatch.setattr(fitting, "contenders", lambda: worse)
    with pytest.raises(ValueError, match="other has another map of tiny"):
        fitting.measured(fitting.TINY[0], 1, list(worse))
