"""Averages of folds, seeds and experiments, their weights chosen where they are not scored."""
