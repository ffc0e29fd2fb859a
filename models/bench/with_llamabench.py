"""SmolLM2 in llama.cpp, by its own program llama-bench: one that was built for this processor, say. It times itself."""

import json
import os
import subprocess

from autotx.models.bench import smollm2
from autotx.models.formats import located


class Timed(list):
    """Results, none here, of a run that took so many seconds."""

    seconds: float


def _run(program, **counts):
    """One run of llama-bench. Its time is that of its measurement, without the loading of the model."""
    flags = [part for flag, n in counts.items() for part in (f"-{flag}", str(n))]
    command = [program, "-m", str(located(smollm2.NAME)), "-t", os.environ["OMP_NUM_THREADS"], "-r", "1", "-o", "json"]
    found = subprocess.run([*command, *flags], capture_output=True, text=True, check=True).stdout
    timed = Timed()
    timed.seconds = json.loads(found)[0]["avg_ns"] / 1e9
    return timed


def read_prompt(tokens, program):
    return lambda: _run(program, p=tokens, n=0)


def continue_text(new, program):
    return lambda: _run(program, p=0, n=0, pg=f"16,{new}")  # new tokens after 16, which are read before
