"""A long wait says what is being done: rows that are cut to tokens."""

from __future__ import annotations

import logging
import time

from maskpack.formats import waiting
from maskpack.models.load import load_pretrained
from maskpack.tasks import find_task, load_data
from maskpack.tasks.context import ModelContext, preprocess_splits
from maskpack.tasks.texts import TextPreprocessor


def test_rows_that_take_long_to_cut_are_said(tiny_model, sentiment, monkeypatch, caplog):
    encode = TextPreprocessor.encode

    def slowly(self, split, **options):
        time.sleep(0.2)
        return encode(self, split, **options)

    context = ModelContext.of_pretrained(load_pretrained(str(tiny_model)))
    data = load_data(find_task("sst2"), data=sentiment)
    with caplog.at_level(logging.INFO):
        preprocess_splits(context, data, None, 16)
        assert "still waiting" not in caplog.text
        monkeypatch.setattr(TextPreprocessor, "encode", slowly)
        monkeypatch.setattr(waiting, "PATIENCE", 0.05)
        preprocess_splits(context, data, None, 16)
    assert "cutting 128 rows to tokens; still waiting" in caplog.text
