"""The stages, one function each: what they read, where they write, when they are skipped.

index, folds, cache (prepare.py); train (train.py); predict (predict.py); ensemble, submit (finish.py).
"""
