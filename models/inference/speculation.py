"""Prompt-lookup speculation: guessing the next tokens of a text that copies, and reading them all at once.

A summary or an edited text repeats parts of its prompt. So the tokens that followed where the text was last as it is
now are read in one piece after the newest token. A few rows take little longer than one, because a product of few rows
takes as long as reading the matrix (see kernels/gemv.py). Each guess counts only while it is the token that the model
chooses anyway, by scores that have the same bits however a text is cut. So the tokens are the same, and a wrong guess
costs only time.

Source: Leviathan et al., 2023, "Fast Inference from Transformers via Speculative Decoding"; with guesses from the
prompt: Saxena, 2023, "Prompt Lookup Decoding".
"""

import numpy as np

FEW, MANY = 3, 7  # guesses: with the newest token they make 4 and 8 rows, numbers for which the kernels are fast
COST = {FEW: 0.7, MANY: 1.7}  # of reading them, in tokens read alone: SmolLM2 on two cores, int8
SHARE = 0.01  # of the time: what wrong guesses may cost
FIRST, MOST = 1.4, 5.0  # tokens' time that they may cost at first, and after however many right ones
SHORTEST = 2  # tokens of an ending that is looked up
LONGEST = 8  # of an ending: of two places, the one that agrees for longer is taken
SPECULATE = "guess tokens that repeat earlier ones: the same text, faster where it copies, as in editing"  # for help


class Guesses:
    """Guesses for one text. What they cost is kept within what they save, and SHARE of the time."""

    def __init__(self):
        self._credit, self._count = FIRST, FEW

    def next(self, ids: np.ndarray, most: int) -> np.ndarray:
        """Guesses for the tokens after ids (T,): FEW, MANY or none, at most `most`."""
        self._credit += SHARE
        for count in (self._count, FEW):
            if count <= most and COST[count] <= self._credit:
                guessed = following(ids, count)
                if len(guessed) == count:
                    return guessed
        return ids[:0]

    def learn(self, given: int, right: int) -> None:
        """Take note that `right` of the `given` guesses were right."""
        if given:
            self._credit = min(MOST, self._credit + right * (1 + SHARE) - COST[given])
            self._count = MANY if given == right else FEW


def following(ids: np.ndarray, most: int) -> np.ndarray:
    """The tokens, at most `most`, that followed the place in ids (T,) that agrees longest with their end: the last such
    place, and none where fewer than SHORTEST tokens agree."""
    places, length = np.arange(1, len(ids)), 0  # places after a token: an ending of no tokens is everywhere
    while length < LONGEST:
        longer = places[places > length]
        longer = longer[ids[longer - 1 - length] == ids[len(ids) - 1 - length]]
        if not longer.size:
            break
        places, length = longer, length + 1
    return ids[places[-1] : places[-1] + most] if length >= SHORTEST else ids[:0]
