"""A reading room's day, three ways to order its worklist: first-come, urgency, urgency with promises.

    python benchmarks/worklist_simulation.py [--days 40] [--seed 0] [--plot worklist.png]

Chest films arrive by chance, most of them by day; two readers by day and one at night take the top of the list. A model with
the sensitivity and specificity below finds things, the product's own triage table makes a priority of what it finds, and
`triage/waiting.py` the order, by the settings' own limit and pace: it knows the roster no better than the product does. Turnaround is from arrival to the end of reading, by what is truly there. The same arrivals,
truths and reading times serve all three. The numbers of the table are assumptions, named so that they can be changed: they
are of the order that the literature gives (Baltruschat 2021, European Radiology 31:3837), not measured on anybody.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medai_pipeline.records import Priority
from medai_pipeline.settings import read_settings
from medai_pipeline.triage.decide import triage
from medai_pipeline.triage.waiting import Waiting, beginnings, reading_order

# finding: prevalence, sensitivity, specificity
FINDINGS = {
    "Pneumothorax": (0.025, 0.90, 0.97),
    "Consolidation": (0.06, 0.85, 0.93),
    "Effusion": (0.12, 0.88, 0.92),
    "Cardiomegaly": (0.10, 0.85, 0.92),
    "Nodule": (0.05, 0.75, 0.92),
}
PER_HOUR = (4, 3, 3, 3, 4, 6, 10, 16, 24, 27, 27, 25, 21, 22, 24, 23, 20, 16, 12, 10, 8, 7, 6, 5)
READERS = (1,) * 7 + (2,) * 11 + (1,) * 6  # by hour of the day
READING_MIN, SPREAD = 5.0, 0.5  # mean minutes of a reading, sigma of its logarithm
SETTINGS = read_settings({})  # the defaults: within which a reading is promised to begin, and how fast they are read
POLICIES = ("first-come", "urgency", "urgency with promises")


@dataclass(frozen=True)
class Film:
    number: int
    arrived: float
    reading_s: float
    truth: frozenset[str]
    priority: Priority
    promise: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-hours", type=float, default=SETTINGS.reading_limit_hours)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    films = day_by_day(arguments.days, np.random.default_rng(arguments.seed))
    minutes = {policy: turnaround(films, policy, arguments.limit_hours * 3600) for policy in POLICIES}
    groups: dict[str, list[int]] = {label: [f.number for f in films if label in f.truth] for label in FINDINGS}
    groups["nothing"] = [film.number for film in films if not film.truth]
    groups["all"] = [film.number for film in films]
    print(f"{len(films)} films in {arguments.days} days; minutes from arrival to the end of reading, mean and longest")
    print(f"{'':22}" + "".join(f"{policy:>26}" for policy in POLICIES))
    for name, members in groups.items():
        cells = "".join(f"{minutes[p][members].mean():>17.0f}{minutes[p][members].max():>9.0f}" for p in POLICIES)
        print(f"{name:22}{cells}")
    if arguments.plot:
        plot({name: {p: minutes[p][members] for p in POLICIES} for name, members in groups.items()}, arguments.plot)
    critical = groups["Pneumothorax"]
    first, guarded = minutes["first-come"], minutes["urgency with promises"]
    halved = guarded[critical].mean() <= first[critical].mean() / 2
    bounded = guarded.max() <= first.max() + 1  # readings are not broken off: a fraction of one is noise
    print(f"mean for pneumothorax at most half of first-come's: {'yes' if halved else 'NO'}")
    print(f"longest over all not above first-come's (to the minute): {'yes' if bounded else 'NO'}")
    return 0 if halved and bounded else 1


def day_by_day(days: int, rng: np.random.Generator) -> list[Film]:
    films = []
    for hour in range(24 * days):
        for moment in np.sort(rng.uniform(0, 3600, rng.poisson(PER_HOUR[hour % 24]))):
            truth = frozenset(label for label, (share, _, _) in FINDINGS.items() if rng.random() < share)
            chance = rng.random(len(FINDINGS))
            said = [
                chance[at] < (sensitivity if label in truth else 1 - specificity)
                for at, (label, (_, sensitivity, specificity)) in enumerate(FINDINGS.items())
            ]
            seconds = float(rng.lognormal(np.log(READING_MIN * 60) - SPREAD**2 / 2, SPREAD))
            films.append(Film(len(films), hour * 3600 + float(moment), seconds, truth, priority_of(tuple(said))))
    return films


def priority_of(said: tuple[bool, ...]) -> Priority:
    """By the product's table. Probabilities far from the threshold: nothing but the finding decides."""
    probabilities = [0.75 if present else 0.02 for present in said]
    count = len(said)
    return triage(list(FINDINGS), probabilities, [0.5] * count, [0.01] * count).priority


def turnaround(films: list[Film], policy: str, limit_s: float) -> np.ndarray:
    """Minutes of each film, by number."""
    done, waiting, at = np.zeros(len(films)), [], 0
    free: list[float] = []  # when each busy reader is done
    now = 0.0
    choose = CHOICES[policy]
    while at < len(films) or waiting or free:
        moments = [films[at].arrived] if at < len(films) else []
        moments += [free[0]] if free else []
        hours = [3600.0 * (now // 3600 + 1)] if waiting else []  # a reader may come
        now = min(moments + hours)
        while free and free[0] <= now:
            heapq.heappop(free)
        while at < len(films) and films[at].arrived <= now:
            film = films[at]
            waiting.append(replace(film, promise=film.arrived + limit_s))
            at += 1
        while waiting and len(free) < READERS[int(now // 3600) % 24]:
            film = choose(waiting, now)
            waiting = [other for other in waiting if other.number != film.number]
            heapq.heappush(free, now + film.reading_s)
            done[film.number] = (now + film.reading_s - film.arrived) / 60
    return done


def first_come(waiting: list[Film], now: float) -> Film:
    return min(waiting, key=lambda film: film.arrived)


def urgency(waiting: list[Film], now: float) -> Film:
    return min(waiting, key=lambda film: (film.priority.rank, film.arrived))


def promised(waiting: list[Film], now: float) -> Film:
    queue = [Waiting(str(film.number), film.priority.rank, film.arrived, film.promise) for film in waiting]
    first = int(reading_order(queue, beginnings(now, len(queue), SETTINGS.reading_minutes * 60))[0].key)
    return next(film for film in waiting if film.number == first)


CHOICES: dict[str, Callable[[list[Film], float], Film]] = {
    "first-come": first_come,
    "urgency": urgency,
    "urgency with promises": promised,
}


def plot(groups: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Bars of the mean and a tick at the longest, on a logarithmic scale of minutes."""
    import cv2

    colours = {
        POLICIES[0]: (150, 150, 150),
        POLICIES[1]: (0, 114, 213),
        POLICIES[2]: (178, 114, 0),
    }  # BGR, Okabe and Ito
    left, right, row, top = 190, 40, 66, 90
    width, height = 1000, top + row * len(groups) + 50
    picture = np.full((height, width, 3), 255, np.uint8)
    longest = max(values.max() for policies in groups.values() for values in policies.values())
    scale = (width - left - right) / np.log10(longest * 1.2)

    def at(minutes: float) -> int:
        return left + round(np.log10(max(minutes, 1.0)) * scale)

    def write(text: str, x: int, y: int, size: float = 0.5) -> None:
        cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1, cv2.LINE_AA)

    write("Minutes from arrival to the end of reading: bar, mean; tick, longest", left, 28)
    for number, policy in enumerate(POLICIES):
        x = left + 230 * number
        cv2.rectangle(picture, (x, 44), (x + 16, 58), colours[policy], -1)
        write(policy, x + 24, 57)
    for tick in (1, 3, 10, 30, 100, 300, 1000):
        if tick <= longest * 1.2:
            cv2.line(picture, (at(tick), top - 8), (at(tick), height - 40), (225, 225, 225), 1)
            write(str(tick), at(tick) - 8, height - 18)
    for number, (name, policies) in enumerate(groups.items()):
        y = top + row * number
        write(name, 20, y + 30)
        for line, (policy, values) in enumerate(policies.items()):
            low, high = y + 18 * line, y + 18 * line + 13
            cv2.rectangle(picture, (left, low), (at(values.mean()), high), colours[policy], -1)
            cv2.line(picture, (at(values.max()), low), (at(values.max()), high), colours[policy], 3)
    cv2.imwrite(str(path), picture)


if __name__ == "__main__":
    raise SystemExit(main())
