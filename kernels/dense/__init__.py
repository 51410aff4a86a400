"""Forward and backward pass by the weights of all pairs, where batch and map are small."""
