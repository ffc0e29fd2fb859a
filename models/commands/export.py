"""`autotx export`: write a language model in a format that other programs read."""

from autotx.files import checked_new, making, replacing
from autotx.models.formats import KNOWN, gguf_writer, huggingface, open_model
from autotx.models.gpt import GPT
from autotx.models.llama import Llama

TYPES = ("f32", "f16", "q8_0")


EXAMPLES = (
    "autotx export --model runs/book --to hf book-hf",
    "autotx export --model smollm2 --to gguf smollm2.gguf --type q8_0",
)


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="runs/gpt", help=f"{KNOWN} (default: %(default)s)")
    parser.add_argument(
        "--to", choices=("hf", "gguf"), required=True, help="hf: a folder of Hugging Face, gguf: a file of llama.cpp"
    )
    parser.add_argument("--type", choices=TYPES, help="of the matrices in a GGUF file (default: f32, which is exact)")
    parser.add_argument("out", metavar="OUT", help="the folder or file to make, which is not there yet")


def outputs(args):
    return {"OUT": (args.out, checked_new)}


def run(args):
    """Write the model and say where. Returns the exit status."""
    if args.type and args.to == "hf":
        raise ValueError("--type is for --to gguf; a folder of Hugging Face holds float32")
    opened = open_model(args.model, needs="text")
    if type(opened.model) not in (GPT, Llama):
        raise ValueError(f"--model {args.model} holds a {opened.kind}; a gpt or a llama can be exported")
    if args.to == "hf":
        with making(args.out) as folder:
            huggingface.write(opened, folder)
        how = "transformers: AutoModelForCausalLM.from_pretrained"
    else:
        with replacing(args.out) as file:
            gguf_writer.write(opened, file, args.type or "f32")
        how = "llama.cpp"
    print(f"{args.out} holds the model, for {how}")
    return 0
