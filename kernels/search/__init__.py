"""The search for the BMU."""
