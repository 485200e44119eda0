"""Synthetic people, training and evaluation."""
