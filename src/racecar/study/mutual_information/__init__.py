"""Section 4 and A.1: the 12-bit task of Shwartz-Ziv & Tishby, Tables 1, 2, 7, 8, Figures 2, 3, 4, 14."""
