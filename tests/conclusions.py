"""What notebook and report conclude: the verdicts, as printed, and the claims in the prose, as conditions on the numbers."""

import re

from notebook import code_cells

MIXTURES = ("mixture_half", "mixture_one")
DATASETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")


def verdicts(path):
    """All that the answers of an executed notebook say in bold: which arm fits better, or that the replicas do not decide."""
    texts = ["".join(o["data"].get("text/markdown", "")) for cell in code_cells(path) for o in cell["outputs"] if "data" in o]
    return [said for text in texts if "**Answer.**" in text for said in re.findall(r"\*\*(.+?)\*\*", text)]


def claims(values):
    """The claims in the prose of notebook and report, as {claim: whether the numbers bear it out}."""
    return {f"{task}: {claim}": bool(holds) for task, part in (
        ("Part I, Task 3", bandwidth(values)), ("Part I, Task 4", ranking(values)), ("Task 9", four_flows(values)),
        ("Task 10", depth(values)), ("Task 11", samples(values)), ("Task 12", modes(values)), ("One scale", one_scale(values)),
    ) for claim, holds in part.items()}


def excludes(values, key, number):
    """Whether the interval of a key does not hold a number."""
    return not values[f"{key}.low"] <= number <= values[f"{key}.high"]


def apart(values, *keys):
    """Whether the intervals of these keys follow one another, from low to high, without touching."""
    return all(values[f"{a}.high"] < values[f"{b}.low"] for a, b in zip(keys, keys[1:]))


def bandwidth(values):
    def at(distribution, rest):
        return values[f"part1.task3.{distribution}.{rest}"]

    def error(distribution, h):
        return at(distribution, f"h_{h}.total_variation")

    best = {"mixture_half": 0.1, "mixture_one": 0.5, "spiral": 0.1}
    return {
        "h = 0.1 is the best of the three for the narrow mixture and the spiral, 0.5 for the wide mixture":
            all(min((0.1, 0.5, 1.0), key=lambda h, d=d: error(d, h)) == h for d, h in best.items()),
        "at h = 0.1 variance is nearly all of the wide mixture's error":
            at("mixture_one", "h_0.1.variance_per_unit_area") > 0.95 * at("mixture_one", "h_0.1.mise_per_unit_area"),
        "at h = 1 bias² is nearly all of both mixtures' error":
            all(at(d, "h_1.0.bias2_per_unit_area") > 0.95 * at(d, "h_1.0.mise_per_unit_area") for d in MIXTURES),
        "half the sigma asks for less than half the bandwidth":
            at("mixture_half", "best_h_mise") < at("mixture_one", "best_h_mise") / 2,
        "h = 0.5 is fair for the wide mixture and poor for the others":
            2 * error("mixture_one", 0.5) < min(error("mixture_half", 0.5), error("spiral", 0.5)),
        "at h = 0.5 and 1 the narrow mixture has the largest error":
            all(error("mixture_half", h) > max(error("mixture_one", h), error("spiral", h)) for h in (0.5, 1.0)),
    }


def ranking(values):
    return {
        "wide mixture, narrow mixture, spiral, from easy to hard, and their intervals do not overlap":
            apart(values, *(f"part1.task4.{d}.total_variation" for d in ("mixture_one", "mixture_half", "spiral"))),
        "the spiral covers a larger effective area than the narrow mixture":
            values["part1.task4.spiral.effective_area"] > 2 * values["part1.task4.mixture_half.effective_area"],
    }


def four_flows(values):
    error = {d: values[f"part2.task09.{d}.total_variation.mean"] for d in DATASETS}
    five = "part2.task09.GaussiansRot"
    return {
        "the grid has the lowest total variation": min(error, key=error.get) == "GaussiansGrid",
        "the five Gaussians have the highest, apart from all others":
            all(apart(values, f"part2.task09.{d}.total_variation", f"{five}.total_variation") for d in DATASETS[:3]),
        "their stray mass is apart from the grid's": apart(values, "part2.task09.GaussiansGrid.stray_mass", f"{five}.stray_mass"),
        "they are stretched far more than the grid":
            values[f"{five}.stretch.median"] > 3 * values["part2.task09.GaussiansGrid.stretch.median"],
        "the flows overfit": all(values[f"part2.task09.{d}.overfitting_nats.median"] > 0 for d in DATASETS),
        "run 0 of the five Gaussians overfits": values[f"{five}.own.overfitting_nats"] > 0,
        "its loss curves suggest it": values[f"{five}.own.lowest_valid_loss_epoch"] < 400,
        "few points raise the mean KL above the median": values[f"{five}.kl_nats.mean"] > values[f"{five}.kl_nats.median"],
    }


def depth(values):
    def lower(measure):
        return values[f"part2.task10.difference.{measure}.replicas_lower"]

    return {
        "every pair falls in KL, total variation and the gap on the training data":
            all(lower(measure) == 16 for measure in ("kl_nats", "total_variation", "training_gap_nats")),
        "two layers fit the training data worse":
            apart(values, "part2.task10.K4.training_gap_nats", "part2.task10.K2.training_gap_nats"),
        "the overfitting rises in most pairs": lower("overfitting_nats") <= 4,
        "by less than is gained": values["part2.task10.difference.kl_nats.median"] < 0,
        "four layers overfit more":
            values["part2.task10.K4.overfitting_nats.median"] > values["part2.task10.K2.overfitting_nats.median"],
    }


def samples(values):
    def change(task, rest):
        return values[f"part2.{task}.difference.{rest}"]

    spread = values["part2.task11.largest_difference_kl_nats"] - values["part2.task11.smallest_difference_kl_nats"]
    return {
        "more samples reduce overfitting":
            values["part2.task11.N3000.overfitting_nats.median"] < values["part2.task11.N1500.overfitting_nats.median"],
        "the gap on the training data does not change visibly":
            not excludes(values, "part2.task11.difference.training_gap_nats", 0),
        "the change of total variation is small beside that of two more layers":
            abs(change("task11", "total_variation.mean")) < abs(values["part2.task10.difference.total_variation.mean"]) / 3,
        "with the same number of steps total variation does not change visibly":
            not excludes(values, "part2.task11_steps.difference.total_variation", 0),
        "more epochs do not lower the KL": not values["part2.task11_epochs.kl_ratio.high"] < 1,
        "they do so by more than they change the gap on the training data":
            -change("task11", "overfitting_nats.median") > abs(change("task11", "training_gap_nats.mean")),
        "with the same number of steps overfitting is lower too": change("task11_steps", "overfitting_nats.median") < 0,
        "and in most pairs": change("task11_steps", "overfitting_nats.replicas_lower") > 16 / 2,
        "more epochs lower total variation": change("task11_epochs", "total_variation.high") < 0,
        "more epochs raise overfitting": change("task11_epochs", "overfitting_nats.median") > 0,
        "and in all but few pairs": change("task11_epochs", "overfitting_nats.replicas_lower") < 8 / 2,
        "one pair of runs proves little": spread > 2 * abs(change("task11", "kl_nats.median")),
    }


def modes(values):
    gap = values["part2.task12.difference.training_gap_nats.mean"]
    return {
        "every pair rises in total variation and in the gap on the training data":
            all(values[f"part2.task12.difference.{m}.replicas_lower"] == 0 for m in ("total_variation", "training_gap_nats")),
        "which is most of the median change of the KL": gap > values["part2.task12.difference.kl_nats.median"] / 2,
        "seven are less overfitted than underfitted": gap > values["part2.task12.difference.overfitting_nats.median"],
    }


def one_scale(values):
    return {
        "the kernel estimate has the lower total variation on each dataset":
            all(values[f"part2.one_scale.{d}.flow_minus_kde.total_variation.low"] > 0 for d in DATASETS),
        "and the two do not overlap anywhere":
            all(values[f"part2.one_scale.{d}.kde.{m}.max"] < values[f"part2.task09.{d}.{m}.min"]
                for d in DATASETS for m in ("kl_nats", "total_variation")),
        "and on nearly all pairs": values["part2.one_scale.kde_lower_total_variation"] >= 30,
        "the kernel estimate has the lower KL on nearly all pairs": values["part2.one_scale.kde_lower_kl"] >= 30,
    }
