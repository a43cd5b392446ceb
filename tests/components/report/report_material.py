"""Material of a report without training: labels, what a model might have read, and frames that say the same."""

import random
from collections import Counter
from dataclasses import asdict

import numpy as np
import pandas as pd

from components.evaluator.verdict import Baseline, Verdict
from components.example_gen.measures import NUMBERS
from components.report import analysis, contents
from components.report.material import CloseLook, Material, Split
from components.report.summary import Step
from components.tools.sample_data.words import WORDS
from components.trainer.outcome import still_falling
from components.trainer.schedule import schedule_for
from htr_client.decoding import Alphabet, BestPath
from htr_client.spans import pixel_spans
from pipeline.config import Config
from tests.conftest import drawn_image, encode

STEPS = [Step("Trainer", "COMPLETE", 12.3, 2**30), Step("Transform", "CACHED", 0.1), Step("RunReport", "COMPLETE", 3)]
FIGURES = ("reliability", "review", "distributions", "curves", "confusion")


def words(count, seed=0):
    """Labels of a few letters."""
    return random.Random(seed).choices(sorted({w for w in WORDS if w.isascii() and w.isalpha()}), k=count)


def misread(text, source, rate):
    """The text as a model might read it that gets a share of the characters wrong."""
    return "".join(source.choice("aeinr") if source.random() < rate else c for c in text)


def table(truths, labels=None, rate=0.04, baseline_rate=None, writers=8, seed=1, best_path_rate=None):
    """A table of predictions of a model that reads the truth, while the labels may say something else."""
    source = random.Random(seed)
    rows = []
    for i, truth in enumerate(truths):
        read = misread(truth, source, rate)
        rows.append(
            {"id": f"data/{i}.png", "source": "data", "writer": f"w{i % writers}", "length_band": f"<={len(truth):02d}",
             "text": labels[i] if labels else truth, "prediction": read,
             "best_path": misread(truth, source, best_path_rate) if best_path_rate is not None else read,
             "baseline": misread(truth, source, baseline_rate) if baseline_rate is not None else "",
             "confidence": source.uniform(0.7, 0.99) if read == truth else source.uniform(0.05, 0.6),
             "width": 120, "height": 40, "paper_level": 235.0, "ink_level": 30.0 + i % 50,
             "ink_share": 0.05 + 0.001 * (i % 40), "sharpness": 0.1 + 0.002 * (i % 30)}
        )  # fmt: skip
    return analysis.count_edits(pd.DataFrame(rows), compared=baseline_rate is not None)


def split_of(texts, writers, images=None):
    """What a split holds."""
    numbers = np.random.default_rng(0).uniform(1, 100, (len(texts), len(NUMBERS))).astype(np.float32)
    return Split(
        samples=len(texts), writers=Counter(writers), characters=Counter("".join(texts)),
        numbers={name: numbers[:, i] for i, name in enumerate(NUMBERS)}, images=images or {},
    )  # fmt: skip


def reading(text, alphabet, number):
    """Frames in which each character of the text stands for two frames between blanks."""
    classes = [alphabet.blank, *(c for i in alphabet.encode(text, skip_unknown=True) for c in (i, i, alphabet.blank))]
    probabilities = np.full((len(classes), len(alphabet) + 1), 0.05 / len(alphabet), np.float32)
    probabilities[np.arange(len(classes)), classes] = 0.95
    (decoded,) = BestPath().decode(np.log(probabilities)[None], np.array([len(classes)]), alphabet)
    image = encode(drawn_image(120, 40, number))
    spans = pixel_spans([c.span for c in decoded.characters], len(classes), 1.0, (0.0, 1.0))
    characters = [(c.text, c.confidence, span) for c, span in zip(decoded.characters, spans, strict=True)]
    return CloseLook(image, probabilities, alphabet, characters, characters)


def material(predictions, config=None, splits=None, alphabet=None, **more):
    """A whole run's material around a table of predictions, with the verdict that the Evaluator would give."""
    config = config or Config(data={"paths": ["names"]})
    known = "".join(sorted(set("".join(predictions["text"]) + "".join(predictions["prediction"]))))
    alphabet = Alphabet(alphabet or known)
    errors, level = analysis.errors_of(predictions), config.gate.confidence_level
    word = analysis.errors_of(predictions, "word")
    (low, high), (word_low, word_high) = errors.interval(level), word.interval(level)
    metrics = {"cer": errors.rate, "cer_low": low, "cer_high": high, "wer": word.rate, "wer_low": word_low,
               "wer_high": word_high, "exact": errors.exact, "samples": float(errors.samples)}  # fmt: skip
    paired = analysis.paired_errors(predictions)
    baseline = {"cer": analysis.errors_of(predictions, baseline=True).rate} if paired else None
    texts, writers = list(predictions["text"]), list(predictions["writer"])
    learnt = split_of(words(2000, 3) + [c * 20 for c in known], [f"t{i % 20}" for i in range(2000 + len(known))])
    shown = [place for group in analysis.choose_cases(predictions).values() for place in group]
    train = config.train.model_copy(update={"warm_start": None})
    values = {
        "config": config,
        "verdict": Verdict(
            config.gate.max_cer is None or high <= config.gate.max_cer, metrics, baseline,
            compared_with=Baseline("in_service", 17, "models/17") if paired else Baseline("none", reason="none yet"),
        ),
        "predictions": predictions,
        "splits": splits or {"train": learnt, "validation": split_of(words(50), ["v1"] * 50),
                             "eval": split_of(texts, writers)},
        "digest": "0123456789abcdef" * 4,
        "alphabet": list(alphabet),
        "settings": {"transform": {"preset": "word", "height": 32, "width": 128}, "best_validation_cer": 0.05,
                     "model": config.model.model_dump(),
                     "train": {**train.model_dump(), **asdict(schedule_for(train, 2000))}},
        "model_bytes": 3_400_000,
        "readings": {place: reading(predictions["prediction"][place], alphabet, place) for place in shown},
        "history": [{"epoch": i, "loss": 20 / i, "validation_cer": 1 / (i + 1), "seconds": 10.0 * i}
                    for i in range(1, 9)],
        "counts": {"accepted": {"train": 2000, "validation": 50, "eval": len(texts)},
                   "rejected": {"empty_label": 2}, "notes": []},
        "rejects": [{"csv": "names/labels.csv", "row": "7", "image": "7.png", "text": "", "reason": "empty_label",
                     "detail": "the label is empty"}],
        "run_id": "2026-01-02T03:04:05.678",
    }  # fmt: skip
    made = {**values, **more}
    history = made["history"]
    facts = {"best_epoch": history[-1]["epoch"], "still_falling": still_falling(history), "collapse": None}
    made["settings"] = {"training": facts, **made["settings"]}
    return Material(**made)


def without_plots(made):
    """The contents of a report of this material without its plots, which take long."""
    return contents.facts(made, analysis.Characters.of(made.predictions))


def in_words(made):
    """The contents of a report whose figures are empty, for tests that look for words."""
    return {**without_plots(made), "figures": dict.fromkeys(FIGURES, "")}
