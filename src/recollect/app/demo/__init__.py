"""The demo: a year of glances at scenes of real handwritten digits, and questions about it."""
