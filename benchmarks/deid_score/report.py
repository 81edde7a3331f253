"""The tables that are printed: share of correct actions by tool and action type, and the list of wrong ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from deid_score.actions import NO_FILE, Action, Verdict, shown


def table(title: str, scored: Mapping[str, Sequence[Verdict]], markdown: bool = False) -> str:
    """One row a tool: all actions, then each action type, as `correct of all` in percent."""
    head = ["", "all actions", "correct", "in files written", *(action.value for action in Action)]
    rows = [[name, *_cells(verdicts)] for name, verdicts in scored.items()]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        return f"\n**{title}**\n\n" + "\n".join(lines)
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return f"\n{title}\n" + "\n".join(lines)


def _cells(verdicts: Sequence[Verdict]) -> list[str]:
    total = Counter(v.expected.action for v in verdicts)
    correct = Counter(v.expected.action for v in verdicts if v.correct)
    return [
        str(len(verdicts)),
        percent(correct.total(), len(verdicts)),
        percent(correct.total(), sum(v.found != NO_FILE for v in verdicts)),
        *(percent(correct[action], total[action]) for action in Action),
    ]


def percent(correct: int, total: int) -> str:
    """Two decimals, and never 100.00 for less than all."""
    if not total:
        return "-"
    return "100 %" if correct == total else f"{min(99.99, 100 * correct / total):.2f} %"


def wrong(scored: Mapping[str, Sequence[Verdict]], most: int = 200) -> str:
    """Each kind of wrong action once, with how many files have it. All identities here are invented."""
    lines = []
    for name, verdicts in scored.items():
        absent = Counter(v.expected.file for v in verdicts if v.found == NO_FILE)
        verdicts = [v for v in verdicts if v.found != NO_FILE]
        kinds = Counter((v.expected.action, shown(v.expected.path), v.expected.why) for v in verdicts if not v.correct)
        example = {(v.expected.action, shown(v.expected.path), v.expected.why): v for v in verdicts if not v.correct}
        lines.append(f"\n{name}: {kinds.total() + absent.total()} wrong actions of {len(kinds) + len(absent)} kinds")
        lines += [f"  {count:>3} x every action of {file}: {NO_FILE}" for file, count in absent.items()]
        for kind, count in kinds.most_common(most):
            e = example[kind].expected
            words = f" words {list(e.words)}" if e.words else ""
            lines.append(
                f"  {count:>3} x {kind[0]:<16} {kind[1]} [{kind[2]}] {e.file}: {e.value[:60]!r}{words} -> {example[kind].found[:60]!r}"
            )
    return "\n".join(lines)
