"""Processes, and files of images, for the examples of many devices."""
