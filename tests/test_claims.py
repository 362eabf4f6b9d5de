"""A sentence of notebook or report ("2 ×": of both) is not what was measured: each, with its condition on numbers."""

import pytest

from cells import ROOT, numbers, sources

V = {key: float(text) for key, text in numbers().items()}
DATASETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")
EXAMPLES = ("wide mixture", "narrow mixture", "spiral")
WIDER_OR_LONGER = ("K=2 500 epochs", "K=2 width 46")
FIXED_STEPS = {"N=3000 205 epochs": "N=1500", "N=3000": "N=1500 782 epochs"}


def apart(*keys, low="low", high="high"):
    """Whether the intervals of these keys follow one another, from low to high, without touching."""
    return all(V[f"{a}.{high}"] < V[f"{b}.{low}"] for a, b in zip(keys, keys[1:]))


def error(name, h):
    return V[f"part1.task4.{name}.h = {h}"]


def median(task, label, measure="total variation"):
    return V[f"part2.task{task}.{label}.{measure}.median"]


def gap(task, label):
    return median(task, label, "generalization gap")


def training_kl_rises(task, *labels):
    return apart(*(f"part2.task{task}.{label}.training KL" for label in labels), low="min", high="max")


def closer(task, second, first):
    """In how many of the eight runs the second setting is closer to the truth than the first."""
    return V[f"part2.task{task}.{second} against {first}.closer"]


def change(task, second, first, end="mean"):
    """The mean change of total variation from the first setting to the second, or an end of its interval."""
    return V[f"part2.task{task}.{second} against {first}.mean change.{end}"]


def less_kl(task, second, first):
    """In how many of the eight runs the second setting has less Kullback-Leibler divergence."""
    return V[f"part2.task{task}.{second} against {first}.less KL"]


def closed_by(control):
    """The share of the difference of medians between two and four layers that a control of Task 10 closes."""
    two, four = median(10, "K=2"), median(10, "K=4")
    return (two - median(10, control)) / (two - four)


def mean_error(method, d):
    return V[f"beyond.{method}.{d}.total_variation"]


def to_kernel(method, end="mean"):
    """The difference to the kernel's total variation on each dataset, or an end of its interval."""
    return {d: V[f"beyond.{method}.{d}.minus_kernel.total_variation.{end}"] for d in DATASETS}


def ahead(method):
    return {d for d, high in to_kernel(method, "high").items() if high < 0}


CLAIMS = {
    # Part I
    "of these three values 0.1 is best for the narrow mixture and the spiral, 0.5 for the wide mixture": lambda: [
        min((0.1, 0.5, 1.0), key=lambda h, name=name: error(name, h)) for name in EXAMPLES] == [0.5, 0.1, 0.1],
    r"half the $\sigma$ asks for less than half the bandwidth": lambda: (
        V["part1.task4.narrow mixture.best h"] < V["part1.task4.wide mixture.best h"] / 2),
    "the wide mixture is the easiest, the spiral the hardest, and the intervals are far apart": lambda: apart(
        *(f"part1.task4.{name}.at best h" for name in EXAMPLES)),
    "2 × at $h=0.1$ the narrow mixture is the easiest, at $h=0.5$ and $h=1$ the hardest": lambda: all(
        sorted(EXAMPLES, key=lambda name, h=h: error(name, h))[rank] == "narrow mixture"
        for h, rank in ((0.1, 0), (0.5, 2), (1.0, 2))),
    # Task 9
    "the five Gaussians are fitted worst": lambda: max(DATASETS, key=lambda d: median("09", d)) == "GaussiansRot",
    "the grid best": lambda: min(DATASETS, key=lambda d: median("09", d)) == "GaussiansGrid",
    "A single fresh point far out can dominate KL and gap": lambda: (
        V["part2.task09.Moons.generalization gap.max"] > 100 * gap("09", "Moons")),
    "2 × the generalization gap exceeds the training KL on all four": lambda: all(
        gap("09", d) > median("09", d, "training KL") for d in DATASETS),
    "on the grid the flow fits its samples better than the truth does": lambda: (
        V["part2.task09.GaussiansGrid.training KL.max"] < 0),
    "(medians), and total variation falls along": lambda: (
        median(10, "K=4") > median(11, "N=1500") > median("09", "GaussiansRot") > median(11, "N=1500 782 epochs")),
    # Task 10
    "2 × four layers fit better than two in all eight runs": lambda: (
        closer(10, "K=4", "K=2") == 8 and change(10, "K=4", "K=2", "high") < 0),
    "close about a third of": lambda: 0.28 < closed_by("K=2 width 46") < 0.36,
    "nearly half": lambda: 0.44 < closed_by("K=2 500 epochs") < 0.5,
    "two layers close a third to a half of the difference in total variation": lambda: all(
        0.3 < closed_by(label) < 0.52 for label in WIDER_OR_LONGER),
    "2 × four fit better than each of these in all eight runs": lambda: all(
        closer(10, "K=4", label) == 8 for label in WIDER_OR_LONGER),
    "four layers have twice that of two, but two trained longer have as much, and eight less": lambda: (
        1.8 < gap(10, "K=4") / gap(10, "K=2") < 2.5 and gap(10, "K=2 500 epochs") > gap(10, "K=4") > gap(10, "K=8")),
    "by KL in seven and six": lambda: [less_kl(10, "K=4", label) for label in WIDER_OR_LONGER] == [7, 6],
    "2 × Eight layers gain again in all eight runs": lambda: closer(10, "K=8", "K=4") == 8,
    "by KL in seven. Look": lambda: less_kl(10, "K=4", "K=2") == 7,
    "Two layers fit the *training* data badly already": lambda: training_kl_rises(10, "K=4", "K=2"),
    # Task 11
    "2 × by KL in all eight runs, by total variation in seven": lambda: (
        closer(11, "N=3000", "N=1500") == 7 and less_kl(11, "N=3000", "N=1500") == 8),
    "2 × In total variation the gain is barely outside chance": lambda: (
        -0.02 < change(11, "N=3000", "N=1500", "high") < 0),
    "they more than halve the generalization gap": lambda: all(
        gap(11, more) < 0.5 * gap(11, few) for more, few in FIXED_STEPS.items()),
    "in seven of eight runs with few steps and in all eight with many": lambda: (
        [less_kl(11, *pair) for pair in FIXED_STEPS.items()] == [7, 8]),
    "with the samples fixed, lower it in only two (1500 samples) and five (3000)": lambda: [
        less_kl(11, "N=1500 782 epochs", "N=1500"), less_kl(11, "N=3000", "N=3000 205 epochs")] == [2, 5],
    "2 × by the means more of it comes with the steps": lambda: all(
        max(change(11, "N=1500 782 epochs", "N=1500"), change(11, "N=3000", "N=3000 205 epochs")) < change(11, *pair)
        for pair in FIXED_STEPS.items()),
    # Task 12
    "2 × three Gaussians are fitted better than seven in all eight runs": lambda: (
        closer(12, "3 Gaussians", "7 Gaussians") == 8),
    "2 × The training KL grows as well": lambda: training_kl_rises(12, "3 Gaussians", "7 Gaussians"),
    "the gap does not: the seven are underfitted": lambda: gap(12, "7 Gaussians") < gap(12, "3 Gaussians"),
    "2 × the generalization gap falls to about a quarter": lambda: (
        0.2 < gap(12, "7 with N=3500") / gap(12, "7 Gaussians") < 0.3),
    "but the median training KL rises (fewer passes over more samples)": lambda: (
        median(12, "7 with N=3500", "training KL") > median(12, "7 Gaussians", "training KL")),
    "2 × total variation shows no clear change": lambda: (
        change(12, "7 with N=3500", "7 Gaussians", "low") < 0 < change(12, "7 with N=3500", "7 Gaussians", "high")),
    "2 × and seven stay behind three in all eight runs": lambda: closer(12, "3 Gaussians", "7 with N=3500") == 8,
    "The divergence falls in six of eight, but stays above that of three in all": lambda: [
        less_kl(12, "7 with N=3500", "7 Gaussians"), less_kl(12, "3 Gaussians", "7 with N=3500")] == [6, 8],
    # Beyond the assignment
    "closer to the truth than the kernel on all four datasets, with the whole interval below 0": lambda: (
        ahead("top") == {*DATASETS}),
    "the best of its eight runs (\\cref{tab:nine}) is worse than the kernel's mean": lambda: all(
        V[f"part2.task09.{d}.total variation.min"] > mean_error("kernel", d) for d in DATASETS),
    "the assignment's flow is behind on all": lambda: all(
        mean_error("assigned", d) > mean_error("kernel", d) for d in DATASETS),
    "40 epochs are enough only with modes": lambda: all(
        mean_error("modes", d) < mean_error("assigned", d) for d in DATASETS),
    "which was tuned for them, does not do it": lambda: all(
        mean_error("recipe", d) > 1.5 * mean_error("kernel", d) for d in DATASETS),
    "The recipe alone is much worse on ring and moons": lambda: all(
        mean_error("recipe", d) > 1.5 * mean_error("assigned", d) for d in ("Circles", "Moons")),
    "2 × a single flow is ahead of the kernel on both sets of Gaussians, and level with it on ring and moons": lambda: (
        ahead("modes") == {"GaussiansGrid", "GaussiansRot"} and max(to_kernel("modes", "low").values()) < 0),
    "Mixtures alone are ahead of the kernel as well": lambda: ahead("mixtures") == {*DATASETS},
    "flows gain little over these: on average less than a hundredth": lambda: all(
        -0.01 < V[f"beyond.top.{d}.minus_mixtures.total_variation.mean"] < 0 for d in DATASETS),
    "lowest bound; that of ten Gaussians with a covariance each is less than a hundredth higher": lambda: (
        -0.01 < V["beyond.digits.full mixture.paired.mean"] < V["beyond.digits.full mixture.paired.high"] < 0),
    "with a sixth of the parameters (without those behind masks)": lambda: (  # a mask leaves 32 of each
        5.5 < 8 * (2 * (32 * 64 + 64 + 64 * 64 + 64 + 64 * 32 + 32) + 32) / (10 * (64 + 64 * 65 / 2) + 9) < 6.5),
    "the others are behind": lambda: all(
        apart(f"beyond.digits.{best}.bits_per_pixel", f"beyond.digits.{other}.bits_per_pixel")
        for best in ("flow", "full mixture") for other in ("mixture", "gaussian", "kernel", "independent")),
}


@pytest.mark.parametrize("said", CLAIMS)
def test_it_is_said_and_true(said):
    times, _, sentence = said.rpartition(" × ")
    report = (ROOT / "report" / "ee048954_hw1.tex").read_text(encoding="utf-8")
    text = " ".join(" ".join([*sources("markdown"), report]).split())
    assert text.count(sentence) == int(times or 1), "said less or more often than here: change the sentence"
    assert CLAIMS[said]()
