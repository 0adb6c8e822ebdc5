"""Decides from proofs and measurements which proposals of the rewriter stay."""
