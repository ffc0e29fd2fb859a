"""Inference: the parts of readers (pieces.py), text generation (sampling.py, continuations.py), translation (beams.py),
and how good they are (losses.py, bleu.py)."""
