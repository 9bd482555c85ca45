"""From the competition's files to checked rows, frozen folds and decoded pictures."""
