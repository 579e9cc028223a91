"""Numba loops over pixels: arrays in, preallocated arrays out, GIL released."""
