"""One experiment, one seed, one fold: from cached pictures to trained weights."""
