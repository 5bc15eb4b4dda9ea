"""Encoded bytes: read once, counted while in use."""
