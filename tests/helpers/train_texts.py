"""Trains a small text model with the stock trainer: `train_texts.py BERT OUT BATCH`."""

import sys

import torch
import torch.distributed as dist
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from sogclr import LearnedTemperature
from sogclr.integrations.sentence_transformers import GlobalRankingLoss, with_sample_ids

ROWS = 16


def main(bert, out, batch):
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[Transformer(bert), Pooling(16)], device="cpu")
    texts = {
        "anchor": [f"w{i} w{2 * i}" for i in range(ROWS)],
        "positive": [f"w{2 * i}" for i in range(ROWS)],
    }
    dataset = with_sample_ids(Dataset.from_dict(texts))
    loss = GlobalRankingLoss(
        model, ROWS, temperature=LearnedTemperature(0.1), effective_negatives=None
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=out,
        per_device_train_batch_size=int(batch),
        num_train_epochs=2,
        learning_rate=0.1,
        optim="sgd",
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=loss
    ).train()
    if arguments.process_index == 0:
        state = {"model": model.state_dict(), "loss": loss.contrast.state_dict()}
        torch.save(state, f"{out}/state.pt")
    if dist.is_initialized():  # left to the end of the process, it can abort it
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
