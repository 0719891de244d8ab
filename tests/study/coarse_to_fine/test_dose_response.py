"""Experiment 3's table and figure, from finished studies with numbers that are known."""

import pytest

from racecar.study.coarse_to_fine.dose_response import main

from .test_results import study_of


def test_the_table_says_at_which_shares_a_method_is_ahead(tmp_path) -> None:
    study_of(tmp_path / "low", {"Std": 0.5, "Dec1": 0.5, "RR1": 0.5}, pair="superposed-0.001")
    study_of(tmp_path / "high", {"Std": 0.5, "Dec1": 0.6, "RR1": 0.8}, pair="superposed-0.1")
    assert main([str(tmp_path / "high"), str(tmp_path / "low"), "--results", str(tmp_path / "results")]) == 0
    found = (tmp_path / "results" / "dose-response.md").read_text()
    rows = {line.split(" | ")[0] + line.split(" | ")[1]: line for line in found.splitlines() if " − " in line}
    assert rows["| RR¹ − Std0.1"].endswith("| better |")
    assert rows["| RR¹ − Dec¹0.1"].endswith("| better |")
    assert not rows["| RR¹ − Std0.001"].endswith("| better |")
    assert found.index("| 0.001 | Std") < found.index("| 0.1 | Std")  # ascending, in whichever order they are named
    assert (tmp_path / "results" / "dose-response.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["mnist-parity"], "is a study on mnist-parity, and not on superposed-SHARE"),
        (["superposed-tuning"], "is a study on superposed-tuning"),
        (["superposed-0.1", "superposed-0.1"], "is the second study with a share of 0.1"),
    ],
)
def test_other_studies_are_refused(tmp_path, capsys, pairs, said) -> None:
    folders = [tmp_path / str(number) for number, _ in enumerate(pairs)]
    for folder, pair in zip(folders, pairs, strict=True):
        study_of(folder, {"Std": 0.5, "Dec1": 0.5, "RR1": 0.5}, pair=pair)
    assert main([*map(str, folders), "--results", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "dose-response.md").exists()
