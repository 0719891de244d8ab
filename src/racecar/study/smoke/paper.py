"""What the paper says of smoke: Table 6 run by run, Table 14, the claims of Section 5.3."""

from racecar.study.report.claims import Claim

L2: dict[str, tuple[float, ...]] = {
    "Std_AB1": (22883, 493.3, 1828),
    "RR^6_AB1": (211.9, 139, 210.2),
    "Std_B1": (31911, 22291, 31911),
    "Std_AB2": (213e7, 2.37e7, 11.4e7),
    "RR^6_AB2": (2.95e7, 1.79e7, 2.32e7),
    "Std_B2": (6.13e7, 2.66e7, 3.43e7),
}
TABLE_14 = {"width": 64, "discriminator_width": 32, "batch_size": 64, "learning_rate": 2e-4, "weight": 0.1}
EPOCHS_A, EPOCHS_B = 40_000, 1_000


def claims(rr: str) -> list[Claim]:
    """Of Section 5.3 and A.4, by L2, for the deepest racecar variant ``rr``, the paper's being ``"RR^6"``."""
    where = "Section 5.3, Table 6"
    return [
        Claim(f"{rr} outperforms Std after transfer to B1", where, f"{rr}_AB1", "Std_AB1"),
        Claim(f"{rr} outperforms training on B1 from scratch", where, f"{rr}_AB1", "Std_B1"),
        Claim("Std's features help on B1: better than from scratch", "A.4, Figure 18", "Std_AB1", "Std_B1"),
        Claim(f"{rr} outperforms Std after transfer to B2 (real smoke)", where, f"{rr}_AB2", "Std_AB2"),
        Claim(f"{rr} outperforms training on B2 from scratch", where, f"{rr}_AB2", "Std_B2"),
        Claim("Std is an inappropriate start for B2: worse than from scratch", "Section 5.3", "Std_B2", "Std_AB2"),
    ]
