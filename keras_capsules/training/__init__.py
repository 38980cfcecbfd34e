"""Trains networks by name, and uses what was trained: the command line's work.

Nothing here is imported with `keras_capsules`: the modules need TensorFlow for
their data, with every backend.
"""
