"""A user's own images: pretraining any classifier with racecar, reusing what it learnt on another data set."""
