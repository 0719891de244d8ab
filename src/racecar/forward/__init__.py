"""Stage 1, from a model to a clean forward graph: export, hooks, nothing in place, recurrent layers split, products read."""
