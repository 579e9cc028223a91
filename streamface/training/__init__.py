"""Training of the shipped nets; the only part of streamface that imports torch."""
