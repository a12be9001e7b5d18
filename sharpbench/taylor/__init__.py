"""Derivatives at every order: Taylor series through networks as people write them."""
