"""What the paper says of the digits: Tables 3 and 4 run by run, the claims of Section 5.1, the cost in Figure 16."""

from racecar.study.report.claims import Claim

ACCURACY: dict[str, tuple[float, ...]] = {
    "Ort_A": (0.9792, 0.8322, 0.9511, 0.8841, 0.8266),
    "Std_A": (0.9827, 0.9815, 0.9815, 0.9817, 0.9829),
    "RR^3_A": (0.981, 0.9824, 0.9828, 0.9816, 0.9816),
    "Ort_AA": (0.9819, 0.982, 0.9792, 0.9814, 0.9816),
    "Std_AA": (0.9854, 0.9837, 0.983, 0.9842, 0.9846),
    "RR^3_AA": (0.9856, 0.9851, 0.9862, 0.9867, 0.9861),
    "Ort_AB": (0.949, 0.8629, 0.9458, 0.9495, 0.8564),
    "Std_AB": (0.956, 0.9458, 0.9543, 0.9559, 0.9466),
    "RR^3_AB": (0.9612, 0.954, 0.9648, 0.9604, 0.9649),
    "Std_B": (0.8714, 0.9657, 0.9659, 0.8789, 0.9638),
}
SECONDS = {"Std": 3.522, "RR^3": 5.675, "Ort": 4.969}  # per epoch of phase I
REGENERATION = "Section 5.1, Figure 5"  # where the paper shows regenerated inputs
TABLES, ACCURACIES, CURVES = "Tables 3 and 4", "Figure 6", "Figure 16"


def claims(rr: str) -> list[Claim]:
    """Of Section 5.1 and A.2, for the deepest racecar variant ``rr``, the paper's being ``"RR^3"``."""
    return [
        Claim("The racecar loss makes the task harder: lower accuracy in phase I", "A.2, Table 3", "Std_A", f"{rr}_A"),
        Claim(f"{rr} outperforms Std when training on A continues", "Section 5.1, Table 3", f"{rr}_AA", "Std_AA"),
        Claim(f"{rr} outperforms Ort when training on A continues", "Section 5.1, Table 3", f"{rr}_AA", "Ort_AA"),
        Claim(f"{rr} outperforms Std after transfer to B", "Section 5.1, Table 4", f"{rr}_AB", "Std_AB"),
        Claim(f"{rr} outperforms Ort after transfer to B", "Section 5.1, Table 4", f"{rr}_AB", "Ort_AB"),
        Claim(f"{rr} outperforms training on B from scratch", "Section 5.1, Table 4", f"{rr}_AB", "Std_B"),
    ]
