"""Losses and gradients under distances that do not factorise: every pair of sample and unit, a tile at a time."""
