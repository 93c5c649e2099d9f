"""Trains the model on the digits until it reads held-out images well: half a minute on two cores."""

from __future__ import annotations

import copy
import time

import digits
import torch
from model import build

STEPS = 400
BATCH = 64
LEARNING_RATE = 3e-3
BALANCE_WEIGHT = 0.02  # of the loss that spreads tokens over the experts
SEED = 0


def train(training: digits.Digits, held_out: digits.Digits):
    """The trained model in eval mode, with experts that can be traced."""
    # The model is so small that a second thread slows it down, on a busy machine very much. One thread also sums in a
    # fixed order: the same weights on every run.
    torch.set_num_threads(1)
    model = build(SEED, experts="eager").train()  # a loop over experts: four times as fast to train as batched_mm
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.15)
    generator = torch.Generator().manual_seed(SEED)
    start = time.monotonic()
    for step in range(1, STEPS + 1):
        batch = torch.randint(0, len(training), (BATCH,), generator=generator)
        question = digits.QUESTIONS[step % len(digits.QUESTIONS)]
        outputs = model(**digits.inputs(training.pixels[batch], question), use_cache=False, output_router_logits=True)
        wanted = training.labels[batch] + digits.TOKEN["0"]
        loss = torch.nn.functional.cross_entropy(outputs.logits[:, -1], wanted)
        optimizer.zero_grad()
        (loss + BALANCE_WEIGHT * outputs.aux_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            seconds = time.monotonic() - start
            print(f"step {step} of {STEPS}: loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    traceable = build(SEED, experts="batched_mm").eval()
    traceable.load_state_dict(copy.deepcopy(model.state_dict()))
    print(f"held-out accuracy: {accuracy(traceable, held_out):.1%} of {len(held_out)} images", flush=True)
    return traceable


def accuracy(model, data: digits.Digits) -> float:
    """Share of images whose digit the model names."""
    with torch.no_grad():
        logits = model(**digits.inputs(data.pixels, digits.QUESTIONS[0]), use_cache=False).logits
    return (digits.answers(logits) == data.labels).float().mean().item()
