"""Generation by GPT2LMHeadModel of Hugging Face. It has other random weights, so its results are not compared."""

import os

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from autotx.models.bench import inputs

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def generate(L, H, C, T, V, prompt, new):
    shape = {"vocab_size": V, "n_positions": T, "n_embd": C, "n_layer": L, "n_head": H}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None)).eval()  # no early end
    ids = torch.from_numpy(inputs.batch(1, prompt, V)[0])
    settings = {"max_new_tokens": new, "do_sample": False, "use_cache": True, "pad_token_id": 0}

    def run():
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return []

    return run


generate_int8 = generate  # in float32: the comparison is with a program without int8 weights
