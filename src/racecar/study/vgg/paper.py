"""What the paper says of VGG19: top-5 accuracy (Section 5.4, Figures 22 and 23; one run each) and seconds per batch."""

from racecar.study.report.claims import CONTROL, Claim

ACCURACY: dict[str, tuple[float, ...]] = {
    "Std_A": (0.7324,),
    "RR^16_A": (0.6673,),
    "Std_AA": (0.7528,),
    "RR^16_AA": (0.7759,),
}
SECONDS = {"Std": 0.308, "RR^16": 0.636}  # per batch of 24, not per epoch
UNIT = "batch"
SPEED = "vgg-speed"
WHAT = "top-5 accuracies on ImageNet, one run each"
REGENERATION = CONTROL
TABLES, ACCURACIES, CURVES = "Section 5.4", "Section 5.4", "Figures 22 and 23"


def claims(rr: str) -> list[Claim]:
    """Of Section 5.4, for the deepest racecar variant ``rr``, the paper's being ``"RR^16"``."""
    return [
        Claim("Racecar training costs accuracy in phase I", "Figure 22", "Std_A", f"{rr}_A"),
        Claim(f"{rr} outperforms Std when training on A continues", "Section 5.4, Figure 23", f"{rr}_AA", "Std_AA"),
    ]
