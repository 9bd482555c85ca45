"""The stages, one function each: what they read, where they write, when they are skipped.

index, folds, cache (prepare.py); teach (teach.py); train (train.py, learning.py); predict (predict.py); ensemble, submit (finish.py).
"""
