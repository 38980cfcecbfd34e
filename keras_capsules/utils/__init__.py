"""Validation, labels, dtypes, initializers and functions that Keras lacks."""
