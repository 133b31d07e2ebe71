"""The experiment of the Euler numbers end to end, and the exact numbers it is held against."""

import json

import pytest

from experiments import euler_numbers


def test_exact_numbers_are_those_of_the_literature():
    assert [euler_numbers.exact_euler_number(d) for d in (3, 4, 5, 6)] == [0, 24, -200, 2610]


def test_a_run_from_the_command_line(tmp_path):
    assert euler_numbers.main(["--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "euler_numbers" / "smoke"
    found = json.loads((folder / "result.json").read_text())
    for row in found["rows"]:
        assert abs(row["deviation_in_standard_errors"]) < 4
        sizes = [point[0] for point in row["history"]]
        assert sizes == [1000, 2000]
    assert found["rows"][1]["value"] == pytest.approx(24, abs=8)
    assert (folder / "figures" / "euler_numbers.png").stat().st_size > 5000


def test_a_wrong_flag_is_one_line(tmp_path, capsys):
    assert euler_numbers.main(["--points", "0", "--out", str(tmp_path)]) == 2
    assert "error: --points: expected at least 1" in capsys.readouterr().err
