"""Running a trained model: what readers are made of, and what they are used for.

    pieces.py     matrices (float32, int8), norms, attention over kept keys and values; what a reader is
    sampling.py   a language model goes on with a text: the choice of a token, and the loop around it
    beams.py      a sequence-to-sequence model writes a translation: greedily, or by beam search

The reader of each model stands beside it in the model's own file.
"""
