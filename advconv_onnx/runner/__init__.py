"""Runs models on files: reading, batching and writing, on one machine or several."""
