"""Engines: models compiled for one GPU, how they are built, kept and found again."""
