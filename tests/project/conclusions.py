"""What notebook and report conclude: the claims in their prose, as conditions on the recorded numbers."""

MIXTURES = ("mixture_half", "mixture_one")
DATASETS = ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")


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
    def mean(dist_type, measure):
        return values[f"part2.task09.{dist_type}.{measure}.mean"]

    error = {d: mean(d, "total_variation") for d in DATASETS}
    five, grid = "part2.task09.GaussiansRot", "part2.task09.GaussiansGrid"
    return {
        "the grid has the lowest total variation, then the circles":
            sorted(error, key=error.get)[:2] == ["GaussiansGrid", "Circles"],
        "the five Gaussians have the highest, apart from all others":
            all(apart(values, f"part2.task09.{d}.total_variation", f"{five}.total_variation") for d in DATASETS[:3]),
        "they put several times the right mass outside": values[f"{five}.stray_mass.low"] > 3 * 0.01,
        "the grid nearly the right one": 0.005 < mean("GaussiansGrid", "stray_mass") < 0.02,
        "the five are stretched more than ten times as much as the grid":
            values[f"{five}.stretch.median"] > 10 * values[f"{grid}.stretch.median"],
        "all four overfit": all(values[f"part2.task09.{d}.overfitting_nats.min"] > 0 for d in DATASETS),
        "the loss curves of the five suggest it": values[f"{five}.own.lowest_valid_loss_epoch"] < 400,
        "in the worst replica of the grid the KL is far above its median":
            values[f"{grid}.kl_nats.max"] > 10 * values[f"{grid}.kl_nats.median"],
    }


def lower(values, task, measure):
    """In how many pairs a measure is lower in the second arm."""
    return values[f"part2.{task}.difference.{measure}.replicas_lower"]


def depth(values):
    return {
        "four layers are better by total variation and by KL":
            values["part2.task10.difference.total_variation.high"] < 0 and values["part2.task10.kl_ratio.high"] < 1,
        "in all pairs":
            all(lower(values, "task10", m) == 16 for m in ("kl_nats", "total_variation", "training_gap_nats", "stray_mass")),
        "two layers fit the training data worse":
            apart(values, "part2.task10.K4.training_gap_nats", "part2.task10.K2.training_gap_nats"),
        "the overfitting rises in most pairs": lower(values, "task10", "overfitting_nats") <= 4,
        "by less than is gained":
            0 < values["part2.task10.difference.overfitting_nats.median"] < -values["part2.task10.difference.kl_nats.median"],
    }


def samples(values):
    def change(task, rest):
        return values[f"part2.{task}.difference.{rest}"]

    spread = values["part2.task11.largest_difference_kl_nats"] - values["part2.task11.smallest_difference_kl_nats"]
    return {
        "sixteen pairs do not decide by KL or by total variation":
            excludes(values, "part2.task11.kl_ratio", 1) is False
            and excludes(values, "part2.task11.difference.total_variation", 0) is False,
        "they lean towards more samples": values["part2.task11.kl_ratio.median"] < 1 and lower(values, "task11", "kl_nats") > 8,
        "overfitting is lower in most pairs": lower(values, "task11", "overfitting_nats") >= 12,
        "and visibly": change("task11", "overfitting_nats.high") < 0,
        "in nearly all where both take as many steps": lower(values, "task11_steps", "overfitting_nats") >= 14,
        "there the fit to the training points is looser": change("task11_steps", "training_gap_nats.low") > 0,
        "and the fit to the truth no worse": values["part2.task11_steps.kl_ratio.high"] < 1
            and change("task11_steps", "total_variation.median") < 0.02,
        "longer training tightens the fit to the training points in nearly all pairs":
            lower(values, "task11_epochs", "training_gap_nats") >= 7,
        "and raises the overfitting in nearly all pairs": lower(values, "task11_epochs", "overfitting_nats") <= 1,
        "run 0 gains much in both": values["part2.task11.run_0_difference_kl_nats"] < -0.2
            and values["part2.task11.N3000.own.total_variation"] < values["part2.task11.N1500.own.total_variation"] - 0.05,
        "one pair of runs proves little": spread > 2 * abs(change("task11", "kl_nats.median")),
        "training blew up in one replica": values["part2.task11.N3000.training_gap_nats.max"] > 5,
    }


def modes(values):
    gap, kl = (values[f"part2.task12.difference.{m}.median"] for m in ("training_gap_nats", "kl_nats"))
    error = [values[f"part2.{key}.total_variation.median"] for key in ("task12.gaussians3", "task10.K4", "task12.gaussians7")]
    return {
        "three Gaussians are fitted better by KL": values["part2.task12.kl_ratio.low"] > 1,
        "every pair rises in total variation and in the gap on the training data":
            all(lower(values, "task12", m) == 0 for m in ("total_variation", "training_gap_nats")),
        "five lie in between": error == sorted(error),
        "the gap grows by as much as the KL": 0.75 < gap / kl < 1.5,
        "the overfitting does not change visibly": not excludes(values, "part2.task12.difference.overfitting_nats", 0),
    }


def one_scale(values):
    return {
        "the kernel estimate has the lower total variation on each dataset":
            all(values[f"part2.one_scale.{d}.flow_minus_kde.total_variation.low"] > 0 for d in DATASETS),
        "and the two do not overlap anywhere":
            all(values[f"part2.one_scale.{d}.kde.{m}.max"] < values[f"part2.task09.{d}.{m}.min"]
                for d in DATASETS for m in ("kl_nats", "total_variation")),
        "on all pairs": all(values[f"part2.one_scale.kde_lower_{m}"] == values["part2.one_scale.num_fits"]
                            for m in ("total_variation", "kl")),
    }
