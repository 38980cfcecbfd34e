"""Makes votes: a few examples at a time, and again for the gradient.

Routing treats each example by itself. So the votes of a few examples exist as
an ordinary tensor, small enough for a cache, and are recomputed for the
gradient. `votes` makes them, `blocks` decides how many examples form a block,
and `compilation` compiles a block on each backend.
"""
