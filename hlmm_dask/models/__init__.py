"""Models: numpy and scipy only, one model at a time."""
