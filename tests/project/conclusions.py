"""What notebook and report conclude: the claims in their prose, as conditions on the recorded numbers."""

DATASETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")
BLOBS, CURVES = {"GaussiansGrid", "GaussiansRot"}, {"Circles", "Moons"}
EXAMPLES = ("narrow mixture", "wide mixture", "spiral")


def claims(values):
    """The claims in the prose of notebook and report, as {claim: whether the numbers bear it out}."""
    return {f"{task}: {claim}": bool(holds) for task, part in (
        ("Part I", kernels(values)), ("Task 9", four_flows(values)), ("Task 10", depth(values)), ("Task 11", samples(values)),
        ("Task 12", modes(values)), ("Beyond, the kernel", plane(values)), ("Beyond, images", images(values)),
    ) for claim, holds in part.items()}


def apart(values, *keys, low="low", high="high"):
    """Whether the intervals of these keys follow one another, from low to high, without touching."""
    return all(values[f"{a}.{high}"] < values[f"{b}.{low}"] for a, b in zip(keys, keys[1:]))


def kernels(values):
    def error(name, h):
        return values[f"part1.task4.{name}.h = {h}"]

    best = {"narrow mixture": 0.1, "wide mixture": 0.5, "spiral": 0.1}
    return {
        "h = 0.1 is the best of the three for the narrow mixture and the spiral, 0.5 for the wide mixture":
            all(min((0.1, 0.5, 1.0), key=lambda h, name=name: error(name, h)) == h for name, h in best.items()),
        "half the sigma asks for less than half the bandwidth":
            values["part1.task4.narrow mixture.best h"] < values["part1.task4.wide mixture.best h"] / 2,
        "wide mixture, narrow mixture, spiral, from easy to hard, and the intervals are far apart":
            apart(values, *(f"part1.task4.{name}.at best h" for name in ("wide mixture", "narrow mixture", "spiral"))),
        "at 0.1 the narrow mixture has the least error of the three": error("narrow mixture", 0.1) == min(
            error(name, 0.1) for name in EXAMPLES),
        "at 0.5 and 1 the largest":
            all(error("narrow mixture", h) == max(error(name, h) for name in EXAMPLES) for h in (0.5, 1.0)),
    }


def median(values, task, label, measure):
    return values[f"part2.{task}.{label}.{measure}.median"]


def ranges_apart(values, task, measure, *labels):
    """Whether the ranges of a measure follow one another without touching."""
    return apart(values, *(f"part2.{task}.{label}.{measure}" for label in labels), low="min", high="max")


def four_flows(values):
    error = {d: median(values, "task09", d, "total variation") for d in DATASETS}
    return {
        "the five Gaussians are fitted worst": error["GaussiansRot"] == max(error.values()),
        "the grid best": error["GaussiansGrid"] == min(error.values()),
        "a few fresh points can dominate a gap":
            values["part2.task09.Moons.generalization gap.max"] > 100 * median(values, "task09", "Moons", "generalization gap"),
    }


def closer(values, task, second, first):
    """In how many runs the second setting is closer than the first, and the interval of the mean change."""
    key = f"part2.{task}.{second} against {first}"
    return values[f"{key}.closer"], values[f"{key}.mean change.low"], values[f"{key}.mean change.high"]


def depth(values):
    def mean_change(first):
        return values[f"part2.task10.K=4 against {first}.mean change.mean"]

    controls = "K=2 500 epochs", "K=2 width 46", "K=2 width 46, 500 epochs"
    change = {first: closer(values, "task10", "K=4", first) for first in ("K=2", *controls)}
    error = {label: median(values, "task10", label, "total variation") for label in (*change, "K=4", "K=8")}
    return {
        "four layers are closer than two in every run": change["K=2"][0] == 8 and change["K=2"][2] < 0,
        "and than two wide ones, two trained twice as long, or both, in every run":
            all(change[first][0] == 8 for first in controls),
        "which come closer than two narrow ones": all(error["K=4"] < error[label] < error["K=2"] for label in controls),
        "size and time explain more than half of it":
            mean_change("K=2 width 46, 500 epochs") > 0.5 * mean_change("K=2"),
        "two layers fit the training data badly already": ranges_apart(values, "task10", "training KL", "K=4", "K=2"),
        "eight layers gain again in all eight runs": values["part2.task10.K=8 against K=4.closer"] == 8,
    }


def samples(values):
    def mean(second, first):
        return values[f"part2.task11.{second} against {first}.mean change.mean"]

    both = closer(values, "task11", "N=3000", "N=1500")
    fixed_steps = ("N=3000 205 epochs", "N=1500"), ("N=3000", "N=1500 782 epochs")
    alone = [closer(values, "task11", *pair) for pair in fixed_steps]
    gap = {label: median(values, "task11", label, "generalization gap")
           for label in ("N=1500", "N=3000", "N=1500 782 epochs", "N=3000 205 epochs")}
    return {
        "N = 3000 is closer in seven of eight runs, and the interval of the mean change lies below 0":
            both[0] == 7 and both[2] < 0,
        "at as many steps, more samples more than halve the gap":
            gap["N=3000 205 epochs"] < 0.5 * gap["N=1500"] and gap["N=3000"] < 0.5 * gap["N=1500 782 epochs"],
        "but show no clear change in total variation": all(low < 0 < high for _, low, high in alone),
        "by the means, most of the gain comes with the steps":
            all(mean("N=1500 782 epochs", "N=1500") < mean(*pair) > mean("N=3000", "N=3000 205 epochs") for pair in fixed_steps),
    }


def modes(values):
    more = closer(values, "task12", "7 with N=3500", "7 Gaussians")
    gap = {label: median(values, "task12", label, "generalization gap") for label in ("7 Gaussians", "7 with N=3500")}
    return {
        "three Gaussians are fitted better than seven in every run":
            closer(values, "task12", "3 Gaussians", "7 Gaussians")[0] == 8,
        "the training KL grows as well": ranges_apart(values, "task12", "training KL", "3 Gaussians", "7 Gaussians"),
        "with 3500 samples the gap nearly closes":
            gap["7 with N=3500"] < 0.3 * gap["7 Gaussians"],
        "but seven come no closer to the truth": more[1] < 0 < more[2],
        "and stay behind three in every run": closer(values, "task12", "3 Gaussians", "7 with N=3500")[0] == 8,
    }


def plane(values):
    def change(method, end):
        """The difference to the kernel's total variation on each dataset: `end` of its interval."""
        return {d: values[f"beyond.{method}.{d}.minus_kernel.total_variation.{end}"] for d in DATASETS}

    def ahead(method):
        return {d for d, high in change(method, "high").items() if high < 0}

    gained = {method: {d: change("assigned", "mean")[d] - change(method, "mean")[d] for d in DATASETS}
              for method in ("modes", "top")}
    return {
        "the assignment's flow is behind the kernel on all four": all(low > 0 for low in change("assigned", "low").values()),
        "the average of four is closer on all four, with the whole interval below 0": ahead("top") == {*DATASETS},
        "one flow with modes is ahead on the blobs": ahead("modes") == BLOBS,
        "and level on the ring and the moons":
            all(change("modes", "low")[d] < 0 < change("modes", "high")[d] for d in CURVES),
        "most of the gain comes with the prior": all(gained["modes"][d] > 0.7 * gained["top"][d] for d in DATASETS),
        "the mixtures alone are ahead on all four": ahead("mixtures") == {*DATASETS},
    }


def images(values):
    order = ("flow", "mixture", "gaussian", "kernel", "independent")
    return {
        "flow, mixture, Gaussian, kernel, independent pixels, from few bits to many, all apart":
            apart(values, *(f"beyond.digits.{name}.bits_per_pixel" for name in order)),
        "the flow needs at most 2.03": values["beyond.digits.flow.bits_per_pixel.mean"] <= 2.03,
    }
