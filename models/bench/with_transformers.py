"""Hugging Face: GPT2LMHeadModel with other random weights, so that its results are not compared; and SmolLM2."""

import os

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from autotx.models.bench import inputs, smollm2
from autotx.models.formats import located

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


# SmolLM2


def _smollm2():
    path = located(smollm2.NAME)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # no early end
    return model


def text_loss(tokens):
    model, ids = _smollm2(), torch.from_numpy(smollm2.text(tokens))

    def run():
        with torch.inference_mode():
            return [model(ids, labels=ids).loss.item()]

    return run


def greedy(new):
    model = _smollm2()
    prompts = [torch.from_numpy(smollm2.tokenizer().encode(p)[None].astype("int64")) for p in smollm2.PROMPTS]
    return lambda: [_continued(model, ids, new) for ids in prompts]


def read_prompt(tokens):
    model, ids = _smollm2(), torch.from_numpy(smollm2.text(tokens))

    def run():
        with torch.inference_mode():
            return [model(ids, logits_to_keep=1).logits[:, -1]]

    return run


def continue_text(new):
    model, ids = _smollm2(), torch.from_numpy(smollm2.text(16))
    return lambda: _continued(model, ids, new)[:0]


def lora_step(rank, rows, tokens):
    import peft  # for this case alone

    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model, given = peft.get_peft_model(_smollm2(), config).train(), smollm2.blocks(rows, tokens)
    inputs, targets = map(torch.from_numpy, given)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-9, weight_decay=0)

    def run():
        loss = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return [loss.item()]

    return run


def _continued(model, ids, new):
    settings = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
