"""Turns records into characters; computes no result."""
