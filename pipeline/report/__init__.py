"""The page to read after an ensemble was made: what is submitted is worth, where it errs, and which labels look wrong."""
