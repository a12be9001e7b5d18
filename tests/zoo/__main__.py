"""``python -m tests.zoo [name …]``: the table of idioms and questions, and every answer that isn't right.

``.`` right · ``~`` within its stated error · ``-`` refused with a reason · ``W`` wrong · blank: not asked
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter

import torch

from tests.zoo.idioms import IDIOMS
from tests.zoo.questions import QUESTIONS, ask, reference_of

SIGNS = {"right": ".", "within": "~", "refused": "-", "WRONG": "W"}


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    width = max(map(len, IDIOMS))
    for i, question in enumerate(QUESTIONS):
        print(" " * (width + 2) + "".join("|" for _ in range(i)) + question.name)
    counts: Counter[str] = Counter()
    notes: dict[tuple[str, str], list[str]] = {}
    for name, idiom in IDIOMS.items():
        if names and not any(part in name for part in names):
            continue
        start, reference, row = time.perf_counter(), reference_of(idiom), ""
        for question in QUESTIONS:
            if question.classes_only and idiom.targets != "classes":
                row += " "
                continue
            answer = ask(idiom, question, reference)
            counts[answer.status] += 1
            row += SIGNS[answer.status]
            if answer.status in ("refused", "WRONG"):
                unexpected = answer.status == "refused" and not answer.expected
                status = "refused, UNEXPECTED" if unexpected else answer.status
                notes.setdefault((name, f"{status}: {answer.sentence}"), []).append(question.name)
        seconds = time.perf_counter() - start
        print(
            f"{name:<{width}}  {row}  {reference.dimension:4d} parameters {seconds:5.1f} s",
            flush=True,
        )
    print(f"\n{', '.join(f'{v} {k}' for k, v in counts.items())}\n")
    for (name, sentence), asked in notes.items():
        print(f"{name} [{', '.join(asked)}] {sentence}")
    return 1 if counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
