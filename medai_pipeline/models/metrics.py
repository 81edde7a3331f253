"""How good predictions are: AUC, calibration error, temperature, thresholds. Arrays in, numbers out; no torch, no models."""

from __future__ import annotations

import numpy as np

TEMPERATURES = (0.25, 8.0)  # what one is looked for between


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve by ranks (ties count half). NaN when one class is absent."""
    truth = truth.astype(bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of all answers given: |confidence - frequency|, weighted by the bins' sizes. NaN of none."""
    flat, hits = probabilities.ravel(), truth.ravel().astype(float)
    if not flat.size:
        return float("nan")
    index = np.minimum((flat * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = index == b
        if inside.any():
            error += inside.mean() * abs(flat[inside].mean() - hits[inside].mean())
    return float(error)


def top_label(probabilities: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of exclusive classes (N, K) the most probable one's probability (N,), and whether it is the true one (N,).

    Its calibration error is the usual one of a softmax (Guo et al. 2017). Over all K answers flattened it would be small
    merely because most classes are rightly said to be improbable.
    """
    top = probabilities.argmax(axis=1)[:, None]
    return np.take_along_axis(probabilities, top, 1)[:, 0], np.take_along_axis(truth, top, 1)[:, 0]


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """The bins of a reliability plot of all answers given that hold anything: mean `confidence`, `frequency` of the finding,
    how `many` answers, and the frequency's 95 % interval `low` to `high` (Wilson 1927)."""
    flat, hits = probabilities.ravel().astype(float), truth.ravel().astype(float)
    index = np.minimum((flat * bins).astype(int), bins - 1)
    found = []
    for b in np.unique(index):
        inside = index == b
        many, frequency = int(inside.sum()), float(hits[inside].mean())
        low, high = _wilson(frequency, many)
        figures = {"confidence": float(flat[inside].mean()), "frequency": frequency, "low": low, "high": high}
        found.append({**{name: round(value, 4) for name, value in figures.items()}, "many": many})
    return found


def _wilson(share: float, many: int, z: float = 1.96) -> tuple[float, float]:
    middle = (share + z**2 / (2 * many)) / (1 + z**2 / many)
    half = z * np.sqrt(share * (1 - share) / many + z**2 / (4 * many**2)) / (1 + z**2 / many)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def fit_calibration(logits: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """The temperature (of TEMPERATURES) and the shifts (K,) of (N, K) logits with the least log loss of logits / T + shift.

    Training shows findings more often than studies have them; the shift brings each class back to its frequency.
    """
    best = (np.inf, 1.0, np.zeros(logits.shape[1]))
    for temperature in _grid():
        scaled = logits / temperature
        shift = _shift_to_frequency(scaled, truth.mean(axis=0))
        z = scaled + shift
        best = min(
            best, (float(np.mean(np.logaddexp(0, z) - truth * z)), float(temperature), shift), key=lambda b: b[0]
        )
    return best[1], best[2]


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature (of TEMPERATURES) at which the softmax of (N, K) logits / T has the least log loss against one-hot truth."""
    grid = _grid()

    def loss(temperature: float) -> float:
        z = logits.astype(np.float64) / temperature
        return float(np.mean(np.logaddexp.reduce(z, axis=1) - (truth * z).sum(axis=1)))

    return float(min(grid, key=loss))


def _grid() -> np.ndarray:
    return np.geomspace(*TEMPERATURES, 60)


def temperature_warning(temperature: float) -> str:
    """A sentence where a fitted temperature is a bound of what was looked through, else ""."""
    low, high = TEMPERATURES
    if low * 1.001 < temperature < high / 1.001:
        return ""
    why = (
        "the network may have learnt nothing: train it longer, or on more images"
        if temperature > 1
        else "the validation split is too small or too easy to tell: add images to it"
    )
    return (
        f"The temperature ended at its bound ({temperature:g}; looked for between {low:g} and {high:g}), so the"
        f" probabilities are not calibrated; {why}."
    )


def _shift_to_frequency(logits: np.ndarray, frequency: np.ndarray, steps: int = 50) -> np.ndarray:
    """By bisection, the shift (K,) at which the mean probability is the frequency."""
    low, high = np.full(len(frequency), -30.0), np.full(len(frequency), 30.0)
    for _ in range(steps):
        middle = (low + high) / 2
        above = sigmoid(logits + middle).mean(axis=0) > frequency
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


def fit_threshold(scores: np.ndarray, truth: np.ndarray, false_alarms: float = 0.02) -> float:
    """A threshold on study scores: halfway (in logits) between the negatives' upper and the positives' lower tail.

    Never below what leaves at most `false_alarms` of the negatives above it, and above 0.9 only for their sake.
    """
    truth = truth.astype(bool)
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    logit = np.log(clipped / (1 - clipped))
    floor = float(np.quantile(logit[~truth], 1 - false_alarms)) + 1e-3
    reach = float(np.quantile(logit[truth], 0.05))
    chosen = max(floor, min(0.5 * (floor + reach), np.log(9.0)))
    return float(np.clip(sigmoid(np.array(chosen)), 0.02, 0.995))
