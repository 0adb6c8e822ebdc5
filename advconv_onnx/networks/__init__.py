"""One file per network, wiring only: a function of the same name, and its usual ``INPUT_SHAPE``."""
