"""Serve the tasks of an exported folder that read texts over HTTP: one session; questions that wait together share a batch.

pip install "maskpack[serve]" && python examples/serve.py EXPORT
curl localhost:8000/predict --json '{"task": "tickets", "texts": ["where is my parcel"]}'
"""

import asyncio
import sys
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from maskpack.runtime import Session


class Question(BaseModel):
    """Texts for a task, or pairs; limits keep one question from delaying the others."""

    task: str
    texts: list[str | tuple[str, str]] = Field(min_length=1, max_length=64)


def make_app(session: Session) -> FastAPI:
    """The application. Texts that wait become a batch; images would be paths on the server."""
    app, turn, waiting = FastAPI(title="maskpack"), asyncio.Lock(), defaultdict(list)
    configs = {n: c for n in session.tasks if (c := session.config(n)).decoder.reads != "images"}

    @app.get("/tasks")
    def tasks() -> dict[str, list[str]]:
        return {name: list(one.labels) for name, one in configs.items()}

    @app.post("/predict")
    async def predict(question: Question) -> list[dict]:
        if question.task not in configs:
            raise HTTPException(404, f"no task {question.task!r}; tasks: {list(configs)}")
        size, texts = configs[question.task].texts or 1, question.texts
        if any(isinstance(row, str) == (size == 2) or len("".join(row)) > 20_000 for row in texts):
            raise HTTPException(422, f"a row has {size} text(s), of 20,000 letters at most")
        waiting[question.task].append((texts, answer := asyncio.Future()))
        async with turn:
            if not answer.done():  # no earlier batch has included this question
                batch = waiting.pop(question.task)
                rows = [text for some, _ in batch for text in some]
                try:
                    found = await asyncio.to_thread(session.predict, rows, task=question.task)
                    for some, future in batch:
                        future.set_result([found.pop(0).to_dict() for _ in some])
                except BaseException as error:  # noqa: BLE001 - told to all who wait, us among them
                    for _, future in batch:
                        future.set_exception(error)
        return await answer

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(Session(sys.argv[1], keep=8)), host="127.0.0.1", port=8000)
