"""What notebook and report conclude: the claims in their prose, as conditions on the recorded numbers."""

MIXTURES = ("mixture_half", "mixture_one")
DATASETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")


def claims(values):
    """The claims in the prose of notebook and report, as {claim: whether the numbers bear it out}."""
    return {f"{task}: {claim}": bool(holds) for task, part in (
        ("Part I, Task 3", bandwidth(values)), ("Part I, Task 4", ranking(values)), ("Task 9", four_flows(values)),
        ("Task 10", depth(values)), ("Task 11", samples(values)), ("Task 12", modes(values)),
        ("Beyond, the kernel", ladder(values)), ("Beyond, dimensions", dimensions(values)),
    ) for claim, holds in part.items()}


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
        "at the best h the variance is a little less than twice the bias²":
            all(1.6 < at(d, "variance_over_bias2") < 2 for d in MIXTURES),
        "half the sigma asks for less than half the bandwidth":
            at("mixture_half", "best_h_mise") < at("mixture_one", "best_h_mise") / 2,
        "h = 0.5 is fair for the wide mixture and poor for the others":
            2 * error("mixture_one", 0.5) < min(error("mixture_half", 0.5), error("spiral", 0.5)),
        "the best h by total variation and by squared error differ a little":
            all(0 < abs(at(d, "best_h") / at(d, "best_h_mise") - 1) < 0.1 for d in MIXTURES),
        "at h = 0.5 and 1 the narrow mixture has the largest error":
            all(error("mixture_half", h) > max(error("mixture_one", h), error("spiral", h)) for h in (0.5, 1.0)),
    }


def ranking(values):
    def mean(rest):
        return values[f"part1.task4.{rest}.mean"]

    area = {d: values[f"part1.task4.{d}.effective_area"] for d in (*MIXTURES, "spiral")}
    within, beyond = mean("spiral.total_variation_within_1"), mean("spiral.total_variation_beyond_1")
    return {
        "wide mixture, narrow mixture, spiral, from easy to hard, and their intervals are far apart":
            apart(values, *(f"part1.task4.{d}.total_variation" for d in ("mixture_one", "mixture_half", "spiral"))),
        "the wide mixture covers a larger area than the narrow one": area["mixture_one"] > area["mixture_half"],
        "the spiral covers four times the area of the narrow mixture": 3.5 < area["spiral"] / area["mixture_half"] < 4.5,
        "the disc holds a third of the spiral's error": 0.28 < within / mean("spiral.total_variation") < 0.38,
        "the rest alone exceeds the error of the narrow mixture":
            beyond > values["part1.task4.mixture_half.total_variation.high"],
    }


def four_flows(values):
    def at(dist_type, rest):
        return values[f"part2.task09.{dist_type}.{rest}"]

    error = {d: at(d, "total_variation.median") for d in DATASETS}
    return {
        "the grid has the lowest total variation, then the circles":
            sorted(error, key=error.get)[:2] == ["GaussiansGrid", "Circles"],
        "and its range overlaps theirs":
            at("GaussiansGrid", "total_variation.max") > at("Circles", "total_variation.min"),
        "run 0 is the worst on the grid and the five Gaussians":
            [at(d, "own.rank") for d in ("GaussiansGrid", "GaussiansRot")] == [8, 8],
        "the five Gaussians have the highest, apart from all others":
            all(at(d, "total_variation.max") < at("GaussiansRot", "total_variation.min") for d in DATASETS[:3]),
        "they put several times the right mass outside": at("GaussiansRot", "stray_mass.min") > 3 * 0.01,
        "the grid nearly the right one": 0.005 < at("GaussiansGrid", "stray_mass.median") < 0.02,
        "all four overfit": all(at(d, "overfitting_nats.min") > 0 for d in DATASETS),
        "one KL on the grid is far above their median":
            at("GaussiansGrid", "kl_nats.max") > 100 * at("GaussiansGrid", "kl_nats.median"),
    }


def lower(values, change, *measures):
    """In how many runs each of these measures is lower in the second arm."""
    return [values[f"part2.{change}.{measure}.lower"] for measure in measures]


def median(values, change, measure):
    return values[f"part2.{change}.{measure}.median"]


def depth(values):
    closer, width, gained = (median(values, f"task10.{change}", "total_variation") for change in ("layers", "width", "more"))
    gap, width_gap = (median(values, f"task10.{change}", "training_gap_nats") for change in ("layers", "width"))
    return {
        "four layers are better than two in every run, by total variation and by KL":
            lower(values, "task10.layers", "total_variation", "kl_nats") == [8, 8],
        "two layers fit the training data badly":
            values["part2.task10.K2.training_gap_nats.min"] > values["part2.task10.K4.training_gap_nats.max"],
        "two wide layers gain a third to a half as much": 0.3 < width_gap / gap < width / closer < 0.5,
        "and not in every run": lower(values, "task10.width", "total_variation", "training_gap_nats") == [7, 7],
        "four narrow ones are closer than these in every run, by KL in all but one":
            lower(values, "task10.depth", "total_variation", "kl_nats") == [8, 7],
        "eight layers gain again in every run":
            gained < 0 and lower(values, "task10.more", "total_variation", "kl_nats") == [8, 8],
        "the overfitting rises in most runs": lower(values, "task10.layers", "overfitting_nats")[0] <= 2,
        "from four to eight it shows no clear change": lower(values, "task10.more", "overfitting_nats") == [4],
        "by less than the training data gain":
            0 < median(values, "task10.layers", "overfitting_nats") < -median(values, "task10.layers", "training_gap_nats"),
    }


def samples(values):
    def own(arm, measure):
        return values[f"part2.task11.{arm}.own.{measure}"]

    return {
        "all runs but one are closer with more samples, by both measures":
            lower(values, "task11.both", "total_variation", "kl_nats") == [7, 7],
        "run 0 gains in both": own("N3000", "kl_nats") < own("N1500", "kl_nats") - 0.1
            and own("N3000", "total_variation") < own("N1500", "total_variation") - 0.02,
        "at as many steps more samples lower the overfitting in most runs":
            all(lower(values, f"task11.{change}", "overfitting_nats")[0] >= 6 for change in ("samples", "samples_long")),
        "but do not bring the fit closer for sure":
            all(0 < lower(values, f"task11.{change}", "total_variation")[0] < 7 for change in ("samples", "samples_long")),
        "more steps raise the overfitting with 1500 samples in every run":
            lower(values, "task11.steps", "overfitting_nats") == [0],
        "and the stray mass falls in every run, with 1500 samples and with 3000":
            all(lower(values, f"task11.{change}", "stray_mass") == [8] for change in ("steps", "steps_3000")),
        "more samples show no effect on it":
            all(2 < lower(values, f"task11.{change}", "stray_mass")[0] < 6 for change in ("samples", "samples_long")),
        "the training gap falls with the steps in most runs":
            all(lower(values, f"task11.{change}", "training_gap_nats")[0] >= 6 for change in ("steps", "steps_3000")),
    }


def modes(values):
    return {
        "three Gaussians are fitted better by total variation in every run":
            lower(values, "task12.modes", "total_variation") == [0],
        "by KL in all but one": lower(values, "task12.modes", "kl_nats") == [1],
        "run 0 of seven is the second best": values["part2.task12.gaussians7.own.rank"] == 2,
        "the gap on the training data grows in every run": lower(values, "task12.modes", "training_gap_nats") == [0],
        "the step from three to five is larger than that from five to seven":
            lower(values, "task12.seven", "total_variation") == [1] and
            median(values, "task12.five", "total_variation") > 1.3 * median(values, "task12.seven", "total_variation") > 0,
        "with more samples for each mode seven overfit less in all runs but one":
            lower(values, "task12.samples", "overfitting_nats") == [7],
        "but come no closer to the truth": 2 < lower(values, "task12.samples", "total_variation")[0] < 6,
        "and stay behind three in every run": lower(values, "task12.alike", "total_variation") == [0],
    }


def ladder(values):
    def at(rung, dist_type, rest):
        return values[f"beyond.{rung}.{dist_type}.{rest}"]

    def change(rung, end, name="minus_before"):
        """The change of total variation with a rung, on each dataset: `end` of its interval, or the mean."""
        return {d: at(rung, d, f"{name}.total_variation.{end}") for d in DATASETS}

    def gains_on(rung, name="minus_before"):
        """The datasets on which a rung gains for sure."""
        return {d for d, high in change(rung, "high", name).items() if high < 0}

    def gained(dist_type, rung):
        """How much lower the mean total variation is than that of the assignment's flow."""
        return at("rung0", dist_type, "total_variation.mean") - at(rung, dist_type, "total_variation.mean")

    short, torn, blobs = change("rung1", "mean"), ("Moons", "GaussiansRot"), {"GaussiansGrid", "GaussiansRot"}
    return {
        "the assignment's flow loses on every dataset":
            all(at("rung0", d, "minus_kernel.total_variation.low") > 0 for d in DATASETS),
        "in all runs": values["beyond.kernel_closer"] == 4 * values["setup.num_runs"],
        "at the top the flow is closer than the kernel on all four": gains_on("top", "minus_kernel") == {*DATASETS},
        "only there":
            all(gains_on(rung, "minus_kernel") != {*DATASETS} for rung in ("rung3", "rung4", "rung5", "mixture", "mixtures")),
        "40 epochs lose on every dataset": all(low > 0 for low in change("rung1", "low").values()),
        "most where modes have to be torn apart":
            min(short[d] for d in torn) > max(short[d] for d in DATASETS if d not in torn) > 0,
        "on all but the grid the stray mass more than doubles":
            all(at("rung1", d, "stray_mass.median") > 2 * at("rung0", d, "stray_mass.median") for d in ("Circles", *torn)),
        "shuffled batches show no clear change":
            max(change("rung2", "low").values()) < 0 < min(change("rung2", "high").values()),
        "a decaying learning rate gains on the blobs": gains_on("rung3") == blobs,
        "and loses on the moons": change("rung3", "low")["Moons"] > 0,
        "the prior with modes pays most on every dataset": gains_on("rung4") == {*DATASETS} and all(
            change("rung4", "mean")[d] < min(change(rung, "mean")[d] for rung in ("rung1", "rung2", "rung3", "rung5", "top"))
            for d in DATASETS),
        "and takes the stray mass down to the kernel's":
            all(at("rung4", d, "stray_mass.median") < at("kernel", d, "stray_mass.median") + 0.005 for d in DATASETS),
        "one such flow is closer on the five Gaussians": gains_on("rung4", "minus_kernel") == {"GaussiansRot"},
        "and about level with the kernel":
            all(abs(at("rung4", d, "minus_kernel.total_variation.mean")) < 0.02 for d in DATASETS),
        "eight layers gain nothing any more": gains_on("rung5") == set(),
        "the average gains on every dataset": gains_on("top") == {*DATASETS},
        "a mixture alone is a little behind the kernel on all but the five Gaussians": all(
            (0 < at("mixture", d, "minus_kernel.total_variation.low") < 0.02) != (d == "GaussiansRot") for d in DATASETS),
        "averaged, mixtures beat the kernel on three": gains_on("mixtures", "minus_kernel") == {*DATASETS} - {"GaussiansGrid"},
        "on the grid the interval reaches 0": 0 < change("mixtures", "high", "minus_kernel")["GaussiansGrid"] < 0.0005,
        "the layers gain on the blobs, with one flow and with four":
            blobs == gains_on("rung4", "minus_mixture") == gains_on("top", "minus_mixture") - {"Moons"},
        "on the moons the interval of their gain ends at 0": abs(change("top", "high", "minus_mixture")["Moons"]) < 0.0005,
        "on the ring nothing is decided":
            max(change(rung, "high", "minus_mixture")["Circles"] for rung in ("rung4", "top")) > 0,
        "on every dataset the layers bring some stray mass back":
            all(at(flows, d, "stray_mass.median") > at(without, d, "stray_mass.median")
                for flows, without in (("rung4", "mixture"), ("top", "mixtures")) for d in DATASETS),
        "about four fifths of the gain or more are there once the prior is in": all(
            gained(d, "rung4") > 0.77 * gained(d, "top") for d in DATASETS),
        "the average adds a hundredth or two": all(-0.025 < mean < -0.005 for mean in change("top", "mean").values()),
        "the layers add about one on the blobs":
            all(-0.015 < change(rung, "mean", "minus_mixture")[d] < -0.005 for rung in ("rung4", "top") for d in blobs),
        "flows are level with them on the five Gaussians, and behind on the ring and the moons":
            abs(at("top", "GaussiansRot", "kl_nats.median") / at("mixtures", "GaussiansRot", "kl_nats.median") - 1) < 0.05
            and all(at("top", d, "kl_nats.median") > 1.05 * at("mixtures", d, "kl_nats.median") for d in ("Circles", "Moons")),
        "by the median KL four flows are ahead on the grid only": {d for d in DATASETS if at("top", d, "kl_nats.median") <
            0.95 * at("mixtures", d, "kl_nats.median")} == {"GaussiansGrid"},
    }


def dimensions(values):
    def at(dimension, rest):
        return values[f"beyond.dimension{dimension}.{rest}"]

    all_four = (2, 4, 8, 16)
    better = {2: ("kernel", "flow"), 4: ("kernel", "flow"), 8: ("flow", "kernel"), 16: ("flow", "kernel")}
    h = [at(d, "h.mean") for d in all_four]
    return {
        "the kernel has the lower KL in every run at 2 and 4 dimensions, the flow at 8 and 16":
            [at(d, "flow_below_kernel") for d in all_four] == [0, 0, 8, 8],
        "so it is by the median of the log ratio":
            all(at(d, f"{first}.median_nats.median") < at(d, f"{second}.median_nats.median")
                for d, (first, second) in better.items()),
        "the flow is closer than the mixtures in seven runs at 4 and 8 dimensions, the mixtures in five at 16":
            [at(d, "flow_below_no_layers") for d in (4, 8, 16)] == [7, 7, 8 - 5],
        "at 4 the mixtures are behind the kernel": at(4, "no_layers.kl_nats.min") > at(4, "kernel.kl_nats.max"),
        "at 2 they are ahead": at(2, "no_layers.kl_nats.median") < at(2, "kernel.kl_nats.median"),
        "at 8 and 16 the kernel is behind the mixtures, too":
            all(at(d, "no_layers.kl_nats.max") < at(d, "kernel.kl_nats.min") for d in (8, 16)),
        "at 2 the flow is worse than both":
            at(2, "flow.kl_nats.min") > max(at(2, f"{other}.kl_nats.max") for other in ("kernel", "no_layers")),
        "no standard error at 8 and 16 dimensions exceeds the flow's at 8":
            max(at(d, f"{name}.largest_standard_error_nats") for d in (8, 16) for name in ("kernel", "flow", "no_layers"))
            == at(8, "flow.largest_standard_error_nats"),
        "the top of the ladder is closer than the kernel on the moons alone":
            values["beyond.top.Moons.kl_nats.median"] < values["beyond.kernel.Moons.kl_nats.median"],
        "the kernel widens with the dimension": h == sorted(h),
        "until it is several times as wide as the moons are thick": h[-1] > 0.3,
        "leave-one-out likelihood finds nearly the h of the exact MISE":
            abs(values["beyond.grid.h.mean"] / values["beyond.grid.best_h_mise"] - 1) < 0.1,
    }
