"""Stage 1, model → clean forward graph: export, hooks kept, nothing in place, recurrent layers split, products read."""
