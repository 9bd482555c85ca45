"""Podium: from an image competition's files to its best honest submission."""
