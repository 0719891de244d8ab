"""What the paper says of stylization (Section 5.4); it gives pictures and no numbers."""

SHAPES, BUILDING, HORSE, DETAIL, SHADOW = (
    "Figure 11",
    "Figure 10, left",
    "Figure 10, right",
    "Figure 12",
    "Figure 13",
)
