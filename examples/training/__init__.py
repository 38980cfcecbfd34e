"""What `train.py` and the benchmarks of trained networks have in common."""
