"""Generates with a key-value cache, batch after batch:  generate.py MODEL.pt TOKENS [--label LIBRARY RUN_DIR]

MODEL.pt: what model.py writes, or scripts/export_hf.py --with-cache of a Hugging Face model. Without --label the
program does not use moetap; if moetap is preloaded, it tells prompts from steps by its rule. With --label the program
says through moetap's C header which samples each forward holds. Prints the generated token ids, a line a prompt.
"""

import argparse

import torch
from moetap_session import MoetapSession

PROMPT_LENGTHS = [[5, 3, 7], [4], [6, 6]]  # of each batch
VOCABULARY = 64  # of the prompts; the model's may be larger


def make_prompts(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask [B, longest], padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[0] * (max(lengths) - length) + [1] * length for length in lengths])
    return torch.randint(VOCABULARY, mask.shape, generator=generator) * mask, mask


def empty_cache(model, batch: int) -> torch.Tensor:
    """The cache of no positions, [layers, 2, B, heads, 0, head width]."""
    layers, pair, _, heads, _, width = model.cache_shape
    dtype = next(model.parameters()).dtype
    return torch.zeros(layers, pair, batch, heads, 0, width, dtype=dtype)


def generate(model, prompts: torch.Tensor, mask: torch.Tensor, num_tokens: int, before_forward) -> torch.Tensor:
    """Greedy. prompts, mask [B, S] -> token ids [B, num_tokens]. `before_forward` is told whether it is a step."""
    token_ids, cache = prompts, empty_cache(model, len(prompts))
    generated = []
    for step in range(num_tokens):
        before_forward(step > 0)
        logits, cache = model(token_ids, mask, cache)
        token_ids = logits.argmax(-1, keepdim=True)
        generated.append(token_ids)
        mask = torch.cat([mask, torch.ones_like(token_ids)], dim=1)
    return torch.cat(generated, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("tokens", type=int)
    parser.add_argument("--label", nargs=2, metavar=("LIBRARY", "RUN_DIR"))
    options = parser.parse_args()
    session = MoetapSession(options.label[0], output_dir=options.label[1], dump="topk") if options.label else None
    model = torch.jit.load(options.model)
    first_sample = 0
    with torch.no_grad():
        for seed, lengths in enumerate(PROMPT_LENGTHS):
            prompts, mask = make_prompts(lengths, seed)
            samples = list(range(first_sample, first_sample + len(prompts)))

            def label(is_step: bool, samples=samples) -> None:
                if session:
                    session.label(samples, generation=is_step)

            for tokens in generate(model, prompts, mask, options.tokens, label).tolist():
                print(*tokens)
            first_sample += len(prompts)
    if session:
        session.close()


if __name__ == "__main__":
    main()
