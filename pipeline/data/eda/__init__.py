"""The report to look at before training: facts, pictures, and what the config does about each."""
