"""Evaluation: how good a classifier is on a folder of class folders, and where it is wrong.

`evaluation/pictures.py` says which pictures, `judging.py` asks the network, `measures.py` counts.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from cnnkit import Context, Model, Operation, Result, UsageError, drawing, hookimpl, label_of
from cnnkit.plugins.evaluation import judging, measures, sheets
from cnnkit.plugins.evaluation.charts import calibration_chart, confusion_chart
from cnnkit.plugins.evaluation.judging import Judged, Unreadable
from cnnkit.plugins.evaluation.measures import Confusion
from cnnkit.plugins.evaluation.options import EvaluateOptions
from cnnkit.plugins.evaluation.page import page
from cnnkit.plugins.evaluation.pictures import Chosen, choose
from cnnkit.plugins.explaining import short

MOST_TOP = 10
MOST_CLASSES, MOST_PAIRS = 20, 5
"""That are printed."""
LONGEST = 500
"""Of a title, in pixels of a font of 12."""


def evaluate(folder: Path, model: Model, options: EvaluateOptions, context: Context) -> Result:
    """See `EvaluateOptions`.

    Pictures: "" the confusion matrix, "calibration", and "wrong" and "right" where there are such pictures.
    Files: "predictions.csv" by file, "wrong.csv" the surest first, "confusion.csv", and "html", a page with
    everything.
    """
    chosen = choose(folder, model, options, context)
    pictures, unreadable = _judged(folder, chosen, model, context)
    confusion = Confusion.of(pictures)
    data = _data(chosen, pictures, unreadable, confusion, model, options)
    title = f"{model.name} on {folder.resolve().name}"
    drawable = drawing.shorten(title, 12, LONGEST)
    wrong = judging.wrong(pictures)

    explainer = sheets.Explainer(folder, model, options.explain, context)
    right = sheets.right(pictures, options.shown)
    sections = {
        "wrong": explainer.section("Wrong ones, those it was surest of first", wrong[: options.shown]),
        "right": explainer.section("Right ones, of each class in turn those it was least sure of", right),
    }
    data["explained_by"] = explainer.method
    charts = {
        "": confusion_chart(confusion, model.labels, drawable),
        "calibration": calibration_chart(measures.calibration(pictures, options.bins), drawable),
    }
    drawn = {part: sheets.sheet(section) for part, section in sections.items() if section.rows}
    files = {
        "predictions.csv": judging.table(pictures, model.labels),
        "wrong.csv": judging.table(wrong, model.labels),
        "confusion.csv": _matrix(confusion, model.labels),
        "html": page(title, data, charts, sections.values()),
    }
    return Result(charts | drawn, data=data, files=files, text=_text(data))


def _judged(
    folder: Path, chosen: Chosen, model: Model, context: Context
) -> tuple[list[Judged], list[Unreadable]]:
    """What could be read and what could not, each by the names of the files."""
    found = list(
        context.progress(
            judging.judge(folder, chosen.pictures, model, context), len(chosen.pictures), "evaluating"
        )
    )
    pictures = sorted(one for one in found if isinstance(one, Judged))
    unreadable = sorted(one for one in found if isinstance(one, Unreadable))
    for one in unreadable:
        context.say(f"left out: {one.why}")
    if not pictures:
        raise UsageError(f"none of the {len(found)} pictures in {folder} can be read.")
    if chosen.recorded is not None and chosen.recorded != len(pictures):
        context.say(
            f"the network's training held out {chosen.recorded} pictures, and these are {len(pictures)}: if "
            "the folder has changed since, it learned from some of them; --manifest with the split.csv of "
            "the training tells which."
        )
    return pictures, unreadable


def _data(
    chosen: Chosen,
    pictures: Sequence[Judged],
    unreadable: Sequence[Unreadable],
    confusion: Confusion,
    model: Model,
    options: EvaluateOptions,
) -> dict[str, Any]:
    def label(index: int) -> str:
        return label_of(index, model.labels)

    classes = measures.per_class(confusion)
    bins = measures.calibration(pictures, options.bins)
    tops = range(1, max(2, min(MOST_TOP + 1, model.classes)))
    return {
        "set": chosen.set,
        "pictures": len(pictures),
        "accuracy": measures.accuracy(pictures),
        "top": {str(most): measures.accuracy(pictures, most) for most in tops},
        "balanced_accuracy": fmean(one.recall for one in classes),
        "macro_precision": fmean(one.precision for one in classes),
        "macro_f1": fmean(one.f1 for one in classes),
        "cross_entropy": measures.cross_entropy(pictures),
        "calibration_error": measures.calibration_error(bins),
        "calibration": [one._asdict() for one in bins],
        "per_class": [{"label": label(one.index)} | asdict(one) for one in classes],
        "confusions": [
            {"truth": label(truth), "predicted": label(predicted), "pictures": count}
            for truth, predicted, count in confusion.pairs()
        ],
        "wrong": [judging.told(one, model.labels) for one in judging.wrong(pictures)],
        "unreadable": [one._asdict() for one in unreadable],
        "empty": list(chosen.empty),
    }


def _matrix(confusion: Confusion, labels: Sequence[str]) -> bytes:
    """CSV: a line per true class, a column per predicted one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["truth", *(label_of(index, labels) for index in confusion.predicted)])
    for index, row in zip(confusion.truths, confusion.counts.tolist(), strict=True):
        writer.writerow([label_of(index, labels), *row])
    return text.getvalue().encode()


def _text(data: dict[str, Any]) -> str:
    top = f", top-5 {data['top']['5']:.1%}" if "5" in data["top"] else ""
    right = data["pictures"] - len(data["wrong"])
    which = "" if data["set"] == "all" else f" for {data['set']}"
    lines = [
        f"{data['pictures']} pictures{which}: accuracy {data['accuracy']:.1%}, {right} are right{top}",
        f"  mean recall {data['balanced_accuracy']:.3f}, mean F1 {data['macro_f1']:.3f}, cross-entropy "
        f"{data['cross_entropy']:.3f}, calibration error {data['calibration_error']:.3f}",
    ]
    rows = data["per_class"]
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: row["f1"])[:MOST_CLASSES]
        lines.append(f"  the {MOST_CLASSES} of {len(data['per_class'])} classes with the lowest F1:")
    wide = max(5, *(len(short(row["label"])) for row in rows))
    lines.append(f"  {'class':<{wide}}  precision  recall     F1  pictures")
    lines += [
        f"  {short(row['label']):<{wide}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:5.3f}"
        f"  {row['pictures']:8}"
        for row in rows
    ]
    for pair in data["confusions"][:MOST_PAIRS]:
        lines.append(f"  {pair['pictures']} x {short(pair['truth'])} taken for {short(pair['predicted'])}")
    return "\n".join(lines)


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("evaluate", evaluate, EvaluateOptions, takes="folder", needs="classifier")]
