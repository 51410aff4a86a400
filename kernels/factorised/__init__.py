"""Forward and backward pass along one axis of the grid after the other."""
