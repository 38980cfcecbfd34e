"""How votes are made: a few examples at a time, and again for the gradient.

Routing treats every example by itself. So the votes of a few examples exist as
an ordinary tensor, small enough for a cache, and are made again when their
gradient is due. `votes` makes them, `blocks` decides how many examples are
taken at once, and `compilation` how a block is compiled on each backend.
"""
