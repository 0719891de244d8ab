"""Coarse first, fine later: what features trained on coarse labels still know of finer ones (docs/plan.md)."""
