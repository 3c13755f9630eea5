"""Sentences about drawn scenes: the pictures, the grammar, what is true, and the network."""
