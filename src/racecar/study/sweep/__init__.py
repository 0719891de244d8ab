"""A study once per λ, on one or more machines: locks, workers, results."""
