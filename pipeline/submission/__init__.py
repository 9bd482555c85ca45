"""The file that goes to the competition, and the checks that it passes first."""
