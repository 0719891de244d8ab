"""What a paper would say of it."""

from racecar.study.report.claims import Claim

ACCURACY = {"Std_A": (0.9, 0.8), "RR^2_A": (0.7, 0.9), "Std_AB": (0.8, 0.8), "RR^2_AB": (0.9, 0.9)}
SECONDS = {"Std": 1.0}
REGENERATION, TABLES, ACCURACIES, CURVES = "Figure 3", "Table 1", "Figure 1", "Figure 2"


def claims(rr: str) -> list[Claim]:
    return [Claim(f"{rr} outperforms Std after transfer to B", "Table 1", f"{rr}_AB", "Std_AB")]
