"""BLEU and chrF of translations, by the library sacrebleu, and of a model on a file of pairs."""

import time
from typing import Any

from autotx.models.data import read_columns
from autotx.models.inference.beams import translations
from autotx.models.pairs import encode, spaced
from autotx.models.tokenizers import Tokenizer
from autotx.text import counted
from autotx.types import PathLike

try:
    import sacrebleu
except ImportError:  # an extra: pip install "autotx[bleu]"
    sacrebleu = None


def scores(written, references, tokenize="13a"):
    """BLEU and chrF of translations (str), each 0 to 100, by sacrebleu. references: the right translations.

    tokenize: the name of sacrebleu's tokenizer for BLEU; chrF compares characters.
    ValueError when sacrebleu, or a library that the tokenizer needs, is not installed, and for an unknown name.
    Source: Papineni et al., 2002; Popović, 2015 (chrF); Post, 2018 (sacrebleu).
    """
    if sacrebleu is None:
        raise ValueError('the BLEU score needs the library sacrebleu: pip install "autotx[bleu]"')
    if tokenize not in sacrebleu.BLEU.TOKENIZERS:
        known = ", ".join(sacrebleu.BLEU.TOKENIZERS)
        raise ValueError(f"--bleu-tokenize {tokenize} is not known to sacrebleu; it is one of {known}")
    try:
        metrics = sacrebleu.BLEU(tokenize=tokenize), sacrebleu.CHRF()
    except (ImportError, RuntimeError) as error:  # some tokenizers need another library
        raise ValueError(f"--bleu-tokenize {tokenize} cannot be used: {error}") from error
    return tuple(metric.corpus_score(written, [references]).score for metric in metrics)


def score_pairs(model: Any, tokenizer: Tokenizer, path: PathLike, beam: int = 1, length_penalty: float = 0.6,
                bleu_tokenize: str = "13a") -> dict[str, Any]:  # fmt: skip
    """Translate the sources of a file of pairs. Returns the scores by its targets, as JSON values.

    beam, length_penalty: as for `translate`; bleu_tokenize: as for `scores`. "lower_case" has the scores by targets in
    lower case, where the model writes no capitals and the targets have some, else None. Words that the model has not
    learned are no error; "unknown" is how many sources have some. ValueError: a source that is longer than the model
    reads at once.
    """
    scores(["a"], ["a"], bleu_tokenize)  # raises before the work if BLEU cannot be computed
    places, sources, targets = zip(*read_columns("--pairs", path, ("source", "target")))
    for place, source in zip(places, sources):
        check_length(f"{place}: ", source, tokenizer, model.config.block_size)
    begun = time.perf_counter()
    written = [best[0].text for best in translations(model, tokenizer, sources, beam, length_penalty)]
    lower = [target.lower() for target in targets]
    capitals = tokenizer.lower_case and lower != list(targets)
    return {
        "sentences": len(sources),
        "seconds": time.perf_counter() - begun,
        "beam": beam,
        **_figures(written, targets, bleu_tokenize),
        "lower_case": _figures(written, lower, bleu_tokenize) if capitals else None,
        "longest_target": max(len(target.split()) for target in targets),
        "unknown": sum(bool(tokenizer.unknown(spaced(source))) for source in sources),
    }


def _figures(written, targets, tokenize):
    bleu, chrf = scores(written, targets, tokenize)
    return {"bleu": bleu, "chrf": chrf, "exact": sum(map(str.__eq__, written, targets))}


def described(found: dict[str, Any]) -> str:
    """What `score_pairs` found, in lines for people."""
    how = f"beam {found['beam']}" if found["beam"] > 1 else "greedy"
    lines = [f"{counted(found['sentences'], 'sentence')} in {found['seconds']:.1f} s ({how})", _line(found)]
    if found["lower_case"]:
        lines[-1] += ", with the capitals of the targets, which this model does not write"
        lines.append(f"{_line(found['lower_case'])}, with the targets in lower case")
    if found["longest_target"] < 4:
        lines.append("(BLEU counts runs of four words too, and no target has so many)")
    if found["unknown"]:
        lines.append(f"sources with words that the model has not learned: {found['unknown']:,}")
    return "\n".join(lines)


def _line(figures):
    return "BLEU {bleu:.2f}, chrF {chrf:.2f}, {exact:,} to the letter".format_map(figures)


def check_length(place: str, sentence: str, tokenizer: Tokenizer, block_size: int) -> None:
    """ValueError for a sentence of more tokens than a translator reads at once. place: where it stands, or ""."""
    count = len(encode(tokenizer, sentence))
    if count > block_size:
        raise ValueError(
            f"{place}a sentence of {count} tokens is longer than --block-size {block_size} of the run; cut it"
        )
