"""LoRA as PEFT's own documents do it: `get_peft_model`, the Trainer of transformers, `merge_and_unload`.

    python benchmarks/peft_lora.py sst2 GLUE/SST-2 -o lora/sst2-0 --train-rows 6000 --seed 0

Nothing of ours but the rows: the same training rows and budget as `benchmarks/compare.py` gives to the others.
Writes OUT/adapter (what is shipped beside the base model) and OUT/merged (a plain model, to be exported).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from maskpack.models.locate import resolve
from maskpack.tasks import find_task, load_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--train-rows", type=int)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    learn(parser.parse_args())


def learn(args: argparse.Namespace) -> None:
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(args.seed)  # before the head is drawn
    rows = load_data(find_task(args.task), data=args.data).limit_train(args.train_rows)
    source = resolve("demo")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=rows.outputs)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=args.rank,
        lora_alpha=2 * args.rank,
        target_modules=["query", "value"],
    )
    model = get_peft_model(model, config)

    def tokens(split):
        return [
            {**tokenizer(*texts, truncation=True, max_length=args.max_length), "label": int(label)}
            for texts, label in zip(split.texts, split.labels, strict=True)
        ]

    steps = math.ceil(len(rows.train) / 32) * args.epochs
    training = TrainingArguments(
        output_dir=str(args.out / "trainer"),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=32,
        learning_rate=args.lr,
        warmup_steps=round(0.1 * steps),
        bf16=True,
        use_cpu=True,
        seed=args.seed,
        save_strategy="no",
        report_to=[],
        logging_steps=100,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        training,
        train_dataset=tokens(rows.train),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    model.save_pretrained(args.out / "adapter")
    merged = model.merge_and_unload()
    merged.save_pretrained(args.out / "merged")
    tokenizer.save_pretrained(args.out / "merged")


if __name__ == "__main__":
    main()
