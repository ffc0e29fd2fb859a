"""Inference: the parts of readers (pieces.py), text generation (sampling.py) and translation (beams.py)."""
