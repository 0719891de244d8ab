"""What the paper says of natural images: Table 5 run by run, the claims of Section 5.2, the cost in Figure 17."""

from racecar.study.report.claims import CONTROL, Claim

ACCURACY: dict[str, tuple[float, ...]] = {
    "Std_A": (0.8263, 0.7868, 0.7729, 0.865, 0.781),
    "RR^13_A": (0.5784, 0.5553, 0.7686, 0.7382, 0.6775),
    "Std_AA": (0.8351, 0.7936, 0.7718, 0.8472, 0.7787),
    "RR^13_AA": (0.869, 0.8538, 0.8449, 0.8692, 0.8418),
    "Std_AB": (0.2063, 0.1838, 0.1795, 0.1738, 0.1704),
    "RR^13_AB": (0.2602, 0.2687, 0.2803, 0.2969, 0.2733),
    "Std_B": (0.2581, 0.2659, 0.2386, 0.2418, 0.2621),
}
SECONDS = {"Std": 63.0, "RR^13": 64.0}  # per epoch of phase I
REGENERATION = CONTROL  # where the paper shows regenerated inputs
TABLES, ACCURACIES, CURVES = "Table 5", "Figure 7", "Figure 17"


def claims(rr: str) -> list[Claim]:
    """Of Section 5.2, for the deepest racecar variant ``rr``, the paper's being ``"RR^13"``, and one of our own."""
    where = "Section 5.2, Table 5"
    return [
        Claim("Racecar training costs accuracy in phase I", "Figure 17, Table 5", "Std_A", f"{rr}_A"),
        Claim(f"{rr} outperforms Std when training on A continues", where, f"{rr}_AA", "Std_AA"),
        Claim(f"{rr} outperforms Std after transfer to B", where, f"{rr}_AB", "Std_AB"),
        Claim("Std has difficulties adjusting to B: worse than from scratch", where, "Std_B", "Std_AB"),
        Claim(f"{rr} slightly outperforms training on B from scratch", where, f"{rr}_AB", "Std_B"),
        Claim(
            f"In inference mode {rr}_A is more accurate with separate batch norm statistics than with shared ones, "
            "which explains its low accuracy in Table 5 only if the paper's code evaluated so",
            CONTROL,
            f"{rr}_A",
            f"{rr}s_A",
        ),
    ]
