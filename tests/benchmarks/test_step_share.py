"""The study of a whole training step, on small images and maps."""

from __future__ import annotations

import pytest

from benchmarks.studies import step_share


def test_a_tiny_case_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert step_share.main(["--tiny", "--budget", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["4 x 4", "5 x 5"]
    assert all(line.count("%") == 3 for line in lines[-2:])


def test_the_profile_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert step_share.main(["--tiny", "--profile"]) == 0
    assert "scaled_dot_product" in capsys.readouterr().out
