"""A GPT learns a text: at every place, which token comes next."""

import shlex

import numpy as np

from autotx.models.data import TextSource, load_data, random_blocks, read_text
from autotx.models.inference.sampling import stream_text
from autotx.models.load import make_gpt
from autotx.models.tasks.task import Task
from autotx.models.tokenizers import load_tokenizer, make_tokenizer
from autotx.text import counted

SAMPLE_TOKENS = 300


class TextTask(Task):
    """config: GPTTrainConfig. A batch is (inputs, targets), both (B, T) integers."""

    def __init__(self, config, rng, folder=None):
        super().__init__(config)

        def tokenizer(text):
            return load_tokenizer(folder) if folder else make_tokenizer(config.tokenizer, text, config.vocab_size)

        self.data = load_data(TextSource(read_text(config.text), tokenizer), config.block_size)
        self.digest, self.tokenizer = self.data.digest, self.data.tokenizer
        self.model = make_gpt(config, self.tokenizer, rng)

    def batches(self, step, rng):
        config = self.config
        blocks = random_blocks(self.data.training, config.grad_accum * config.batch_size, config.block_size, rng)
        return list(zip(*(np.split(part, config.grad_accum) for part in blocks)))

    def count(self, batch):
        return batch[1].size

    def loss(self, batch, rng=None):
        return self.model(*batch, rng=rng)[1]

    def validation(self):
        config, rng = self.config, np.random.default_rng([self.config.seed, 3])
        for _ in range(config.eval_batches):
            yield random_blocks(self.data.validation, config.batch_size, config.block_size, rng)

    def introduction(self):
        config, data = self.config, self.data
        return [
            ("text", ", ".join(config.text) or "Python's own manual (give your own with --text FILE)"),
            (
                "",
                f"{counted(len(data.training), 'token')} to learn from, {len(data.validation):,} to validate on; "
                + data.tokenizer.describe(),
            ),
            (
                "model",
                f"GPT of {self.model.num_parameters():,} parameters: {counted(config.n_layer, 'layer')}, "
                f"{counted(config.n_head, 'head')}, {counted(config.n_embd, 'channel')}, "
                f"blocks of {counted(config.block_size, 'token')}",
            ),
        ]

    def show(self):
        print("A sample of what the model writes:\n")
        rng = np.random.default_rng([self.config.seed, 4])
        for piece in stream_text(self.model, self.tokenizer, "\n", SAMPLE_TOKENS, temperature=0.8, rng=rng):
            print(piece, end="", flush=True)
        print()

    def next_commands(self, out):
        # Not every text has "The "; its own first words are sure to be known.
        words = ["The ", *self.tokenizer.decode(self.data.training[:1000]).split()]
        prompt = next((word for word in words if not self.tokenizer.unknown(word)), "")
        return [f"autotx generate --model {out} --prompt {shlex.quote(prompt)}"]
