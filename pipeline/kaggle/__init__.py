"""Kaggle: what is sent there and fetched from there, through its own client."""
