"""Distances in PyTorch operations, on any device: the search for the nearest units, and the loss of each sample.

A distance is data wherever it can be: ``score_ik = x_i . v_k + bias_k``, the largest for the nearest unit. For the cosine v is
the unit prototype and the bias 0; for the squared Euclidean distance, and so for the Euclidean, v is the prototype and the bias
``-|v|^2 / 2``. Both are seen from a common centre, so that what all rows have in common costs no digits. The Manhattan distance
is no product: it is computed for all pairs, a tile at a time.
"""
