"""Out-of-fold and test predictions of a trained experiment."""
