"""Running a trained model: what readers are made of (pieces.py), sampling.py for texts, beams.py for translations."""
