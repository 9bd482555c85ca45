"""Copies of a picture: two hashes, a search among them, a second look, and what becomes of the rows."""
