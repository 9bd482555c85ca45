"""Studies: a space of configs, searched trial by trial, in a storage that survives its workers."""
