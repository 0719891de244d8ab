"""Stylization by a network's features (Section 5.4, Equations 3 and 4; Gatys et al. 2016), and the comparisons."""
