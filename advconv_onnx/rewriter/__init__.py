"""Proposes changes to a graph; runs nothing and times nothing."""
