"""SmolLM2 in llama.cpp, by the package xllamacpp. It computes with weights of 4 bits: results are not compared."""

import os

import xllamacpp

from autotx.models.bench import smollm2
from autotx.models.formats import located


def _server(context):
    settings = xllamacpp.CommonParams()
    settings.model.path = str(located(smollm2.NAME))
    settings.n_ctx, settings.n_parallel = context, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = int(os.environ["OMP_NUM_THREADS"])
    settings.warmup, settings.verbosity, settings.cache_ram_mib, settings.n_ctx_checkpoints = False, 0, 0, 0
    return xllamacpp.Server(settings)


def _complete(server, ids, new):
    whole = {"prompt": ids[0].tolist(), "n_predict": new, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
    server.handle_completions(whole)
    return []


def read_prompt(tokens):
    server, ids = _server(tokens + 16), smollm2.text(tokens)
    return lambda: _complete(server, ids, 1)


def continue_text(new):
    server, ids = _server(16 + new), smollm2.text(16)
    return lambda: _complete(server, ids, new)


def converse(context, new):
    server, messages = _server(context), [{"role": "user", "content": "What is gravity?"}]

    def run():
        server.handle_chat_completions({"messages": messages, "max_tokens": new, "temperature": 0})
        return []

    return run
