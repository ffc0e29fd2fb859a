"""The whitepaper: every case is one test, and what a verdict means is tested beside it."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from autotx.models import paper
from autotx.models.inference.beams import translations
from autotx.models.paper import command, corrected, page, pictures, report, timing, trained
from autotx.models.paper.case import VERDICTS, Case, Claim, Digits

# What is known to be wrong in the paper. A verdict that leaves or enters these lists is either a discovery or a bug of
# the engine: look, then change the list.
ROUNDING = """
    example.printed_row_sums target.target_norm_outside gpt.gpt_2
"""
ERRATA = """
    overview.target_words positions.even_and_odd positions.exponent_0_1 positions.exponent_0_3
    positions.inference_too positions.written_exponents positions.position_1 positions.position_2
    positions.as_written positions.target_positions positions.repeated encoder.addition_is_linear
    self-attention.inside_softmax self-attention.scores_with_others
    example.q_without_positions example.one_name example.source_in_two_versions example.q_from_rounded example.w_k
    example.k example.w_v example.v_as_shown example.v_from_formulas example.attention_from_text heads.weight_vector
    heads.trained_apart heads.w_o_halves heads.result_with_halves heads.final_output heads.independent_of_length
    layer-norm.norm_of_two_features layer-norm.hard_limit layer-norm.norm_of_m feed-forward.column_times_matrix
    feed-forward.input_shape feed-forward.net_input feed-forward.random_parameters feed-forward.bias_columns
    feed-forward.encoder_output_outside feed-forward.ratios target.same_math target.called_attention_2 target.scaled
    target.masked target.scaled_and_masked target.target_norm target.start_padding cross-attention.one_symbol
    cross-attention.decoder_w_q cross-attention.encoders_weights cross-attention.cross_masked
    cross-attention.cross_output output.rest_of_the_block output.de_nada loss.through_time
    loss.gradient_of_predictions loss.hat_falls loss.update_of_weights loss.new_mat loss.new_hat_and_bat
    loss.new_rat loss.not_normalized loss.softmax_of_them trainer.start trainer.learning_rate trainer.lines_together
    gpt.exponentially_more gpt.gpt_1 gpt-example.flat_positions gpt-example.h_1 gpt-example.feed_forward_and_norm
    gpt-example.flat_matrix gpt-example.h_2 complexity.projections_for_pairs complexity.projections_in_width
    complexity.attention_overall complexity.bottleneck complexity.doubling complexity.gpt_3_layers
    complexity.gpt_3_width complexity.gpt_3_as_printed word-embeddings.percentages word-embeddings.three_sources
    weight-matrices.iterations_and_epochs softmax.subtle_differences matrix-multiplication.q_1_3
    matrix-multiplication.two_listings matrix-multiplication.called_x calculating-y.target_called_x
    norm-listing.layer_norm_listing decoder-heads.called_positions encoder-decoder-listing.own_weights
    encoder-decoder-listing.transposed encoder-decoder-listing.divisor cross-entropy.extra_bits cross-entropy.bits
    cross-entropy.others_fall
"""
EXTERNAL = """
    encoder.depth self-attention.he heads.harvard feed-forward.convolutional feed-forward.recurrent
    feed-forward.page_165 feed-forward.factor_4 loss.chapter gpt.few_shots gpt.training_sets gpt.latest training.roses
    word-embeddings.word2vec word-embeddings.airplane xor-relu.most_common
"""
EXPECTED = dict.fromkeys(ROUNDING.split(), "rounding")
EXPECTED |= dict.fromkeys(ERRATA.split(), "erratum") | dict.fromkeys(EXTERNAL.split(), "external")
CASES = paper.cases()


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_case(case):
    result = case.result
    assert result.verdict == EXPECTED.get(case.id, "exact"), report.differences(case)
    if result.verdict != "exact":
        assert case.note, "a difference needs a note that says what is wrong and what is right"
    if isinstance(case.printed, Digits) and case.compute:
        assert np.isfinite(result.computed).all()


# The cases as a whole


def test_ids_are_distinct_and_the_lists_have_no_stale_names():
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids) >= 300
    assert set(EXPECTED) <= set(ids)
    assert len(EXPECTED) == len((ROUNDING + ERRATA + EXTERNAL).split())


def test_cases_lie_inside_their_sections_and_sections_follow_each_other():
    for section in paper.SECTIONS:
        for case in section.cases:
            assert section.lines[0] <= case.lines[0] <= case.lines[1] <= section.lines[1], case.id
            assert case.section == section.title
        firsts = [case.lines[0] for case in section.cases]
        assert firsts == sorted(firsts)
    ends = [line for section in paper.SECTIONS for line in section.lines]
    assert ends == sorted(ends)
    assert len({section.slug for section in paper.SECTIONS}) == len(paper.SECTIONS)


def test_the_readme_counts_them_right():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    exact, rounding, errata, external = (sum(case.result.verdict == v for case in CASES) for v in VERDICTS)
    for words in (
        f"in {len(CASES)} cases. {exact} are exact, {rounding} are off",
        f"{errata} are errata, each with what is right, and {external} quote",
    ):
        assert words in readme


# What a verdict means


def verdict(printed, computed):
    return Case("x", (1, 1), "s", "t", "", printed, lambda: computed).result.verdict


@pytest.mark.parametrize(
    ("printed", "computed", "expected"),
    [
        ("0.65", 0.6549, "exact"),
        ("0.65", 0.6551, "rounding"),
        ("0.65", 0.6601, "erratum"),
        ("0.65", 0.64, "rounding"),
        ("0.65", -0.65, "erratum"),
        ("1.6001", 1.60005, "exact"),  # a tie
        ("0.", 0.4, "exact"),
        ("7", 7.0, "exact"),
        ("7", 8.0, "erratum"),  # a count has no last digit to round
        ("0.09", 0.10312, "erratum"),
        ("1.5 2.5", [1.5, 2.5], "exact"),
        ("1.5 2.5", [1.5, 2.6], "rounding"),
        ("1.5 2.5", [1.5, 2.7], "erratum"),
        ("1 2; 3 4", [[1, 2], [3, 4]], "exact"),
        ("1 2; 3 4", [1, 2, 3, 4], "erratum"),  # another shape
        ("3", [3, 4], "erratum"),
    ],
)
def test_verdict_of_numbers(printed, computed, expected):
    assert verdict(Digits(printed), computed) == expected


def test_places_say_how_many_decimals_a_short_number_stands_for():
    assert verdict(Digits("1.6"), 1.6123) == "exact"
    assert verdict(Digits("1.6", places=4), 1.6123) == "erratum"
    assert Digits("1.6 0.25", places=1).places.tolist() == [1, 2]
    assert Digits("0. 7 -0.40").places.tolist() == [0, 0, 2]


def test_verdict_of_words_and_claims():
    assert verdict(["de", "nada"], ["de", "nada"]) == "exact"
    assert verdict(["De", "nada"], ["de", "nada"]) == "erratum"
    assert verdict("it holds", Claim(True, "yes")) == "exact"
    assert verdict("it holds", Claim(False, "no")) == "erratum"


def test_a_case_computes_once():
    calls = []
    case = Case("x", (1, 1), "s", "t", "", Digits("1"), lambda: calls.append(1) or 1.0)
    assert case.result is case.result
    assert calls == [1]


# What is trained


def test_the_word_trainer_ends_where_the_paper_does():
    assert [f"{p:.8f}" for p in trained.word_trainer()[2]] == ["0.95765298", "0.01320591", "0.01320591", "0.01593520"]


def test_the_translator_reads_what_it_translates():
    model, tokenizer, _ = trained.translator()
    written = translations(model, tokenizer, [source for source, _ in trained.PHRASES])
    assert [best[0].text for best in written] == [target for _, target in trained.PHRASES]


def test_the_line_is_the_least_squares_line():
    x, y, line, network, steps = trained.sine_fits()
    assert steps == 4000
    expected = np.polyval(np.polyfit(x[:, 0], y[:, 0], 1), x)
    np.testing.assert_allclose(line, expected, atol=1e-12)
    assert np.mean((network - y) ** 2) < np.mean((line - y) ** 2)


# The reports


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def test_table(capsys):
    assert run() == 0
    out = capsys.readouterr().out
    assert f"[ 1/{len(paper.SECTIONS)}] How Transformers Work" in out
    assert "row 2, column 2: printed 0.99995, computed 0.54030" in out
    counts = [sum(case.result.verdict == v for case in CASES) for v in VERDICTS]
    assert f"{len(CASES)} cases: {', '.join(f'{v} {n}' for n, v in zip(counts, VERDICTS))}" in out
    assert max(map(len, out.splitlines())) <= report.WIDTH
    assert "{" not in out


def test_section(capsys):
    assert run("--section", "softmax") == 0
    out = capsys.readouterr().out
    assert "Three logits become probabilities" in out
    assert "Word Embeddings" not in out
    assert f"[21/{len(paper.SECTIONS)}] Softmax" in out
    assert "e^(x_i) / Σ_j e^(x_j)" in out
    assert "printed and computed: 0.65 0.24 0.11" in out
    assert [s.slug for s in paper.sections_named("XOR")] == ["xor"]
    assert [s.slug for s in paper.sections_named("position")] == ["positions"]


def test_an_unknown_section_is_told_in_one_line():
    with pytest.raises(ValueError, match=r"^--section nonsense: there is none; give one of overview, embeddings, .*$"):
        run("--section", "nonsense")


def test_a_folder_that_does_not_exist_is_told_before_anything_is_computed(fails, tmp_path):
    page = tmp_path / "nowhere" / "page.html"
    fails(["paper", "--html", page], r"nowhere.page.html: there is no folder .*nowhere; make it first")


@pytest.mark.parametrize("flag", ["--json", "--html"])
def test_a_folder_in_place_of_a_file_is_told_before_anything_is_computed(fails, tmp_path, flag):
    fails(["paper", flag, tmp_path], " is a folder; give the name of a file\n")


def test_json(tmp_path, capsys):
    run("--json", str(tmp_path / "cases.json"))
    objects = json.loads((tmp_path / "cases.json").read_text(encoding="utf-8"))
    assert [o["id"] for o in objects] == [case.id for case in CASES]
    for o in objects:
        assert set(o) == {"id", "lines", "section", "title", "printed", "computed", "verdict", "note"}
        assert isinstance(o["lines"], list)
        assert len(o["lines"]) == 2
        assert o["verdict"] in VERDICTS
        assert all(_numbers_or_text(o[key]) for key in ("printed", "computed")), o["id"]


def _numbers_or_text(value, inside=False):
    if isinstance(value, list):
        return all(_numbers_or_text(v, inside=True) for v in value)
    return isinstance(value, float | int) or (isinstance(value, str) and not inside)


@pytest.mark.parametrize(
    ("right", "printed", "places", "same", "text"),
    [
        (1.59995001, 1.6, 4, True, "1.6000"),
        (2.29995, 2.3, 4, True, "2.29995"),  # a tie that was rounded up
        (0.11396, 0.19, 2, False, "0.114"),
        (2.25790, 175, 0, False, "2.258"),
        (-0.0, -1.7888543, 7, False, "0.0000000"),
        (1e-10, -1.7888543, 7, False, "0.0000000"),
        (4.0, 1.0, 0, False, "4"),
    ],
)
def test_how_a_computed_number_is_shown(right, printed, places, same, text):
    assert report.shown(right, printed, places, same) == text


def test_markup():
    assert report.plain("10000^{2i/d} x_{i} 10^{-6}") == "10000^(2i/d) x_i 10^-6"
    assert page.markup("10^{-6} < e^{x_{i}}") == "10<sup>-6</sup> &lt; e<sup>x<sub>i</sub></sup>"


def test_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 1)
    timing.sweeps.cache_clear()
    run("--html", str(tmp_path / "page.html"))
    assert f"written: {tmp_path / 'page.html'}, page-encoder.html, page-p-minus-y.html\n" in capsys.readouterr().out
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for case in CASES:
        assert f'id="{case.id}"' in html
    assert html.count("<figure>") == len(page.PICTURES) == html.count("<svg")
    assert html.count("<article") == html.count("</article>") == len(CASES) + len(corrected.chain())
    linked = re.findall(r'(?:src|href)="(?!#|data:)([^"]*)', html)
    assert linked == ["page-encoder.html", "page-p-minus-y.html"], "the page needs nothing from outside"
    for file in linked:
        assert "<h1>" in (tmp_path / file).read_text(encoding="utf-8")
    assert not re.search(r"\\(?:frac|sqrt|text)|\$\$|[_^]\{", html), "raw LaTeX or markup is left"
    assert "prefers-color-scheme: dark" in html


def test_pictures_take_the_colour_of_the_page():
    svg = pictures.as_svg(pictures.xor_points())
    assert "currentColor" in svg
    assert pictures.INK not in svg
    assert svg.startswith("<svg")


def test_a_fitted_exponent():
    sizes = [1, 2, 4, 8, 16, 32]
    exponent, fit = timing.fitted(sizes, [3.0 * n**1.5 for n in sizes])
    assert exponent == pytest.approx(1.5)
    assert fit[-1] == pytest.approx(3.0 * 32**1.5)


def test_the_example_set_right():
    stages = {stage.line: stage for stage in corrected.chain()}
    np.testing.assert_allclose(stages[221].right[1], [0.5414709848, 1.0403023059, 0.1099998333, 0.7999500004])
    for stage in stages.values():
        assert stage.right.shape == stage.printed.shape
        assert stage.right.dtype == np.float64
    np.testing.assert_allclose(stages[631].right.mean(axis=1), 0, atol=1e-12)
