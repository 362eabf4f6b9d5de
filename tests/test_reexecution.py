"""Run the notebook again, alone in an empty folder, and compare with what is committed.

What does not train is deterministic up to rounding: its numbers have to agree to 1e-6, and its saved text to the letter.
Training is chaotic: a last-bit difference grows until run 0 ends elsewhere. On one machine two executions, and one and
two threads, gave the same bits. Without vector instructions (ATEN_CPU_CAPABILITY=default) the results moved by at most

    quantity                              moved   allowed here
    total variation, one run              0.029   0.10
    total variation, mean or median       0.016   0.05
    KL, median of the replicas (nats)     0.074   0.20
    gap on training data, one run (nats)  0.098   0.30
    gap on training data, mean (nats)     0.033   0.12

while a *mean* KL moved by 0.6: single replicas put next to nothing where a few fresh samples lie. Means of KL are
therefore not compared; what the text concludes from them (signs and rankings) is.
"""

import json
import re

import pytest

from notebook import ROOT, code_cells, execute_alone

ALLOWED = [  # (pattern of the key, tolerance); the first that matches counts
    (r"part2\.task\d+\.\w+\.own\.total_variation", 0.10),
    (r"part2\.(task\d+|one_scale)\..*total_variation\.(mean|median)", 0.05),
    (r"part2\.task\d+\.\w+\.kl_nats\.median", 0.20),
    (r"part2\.task\d+\.\w+\.own\.training_gap_nats", 0.30),
    (r"part2\.task\d+\.\w+\.training_gap_nats\.(mean|median)", 0.12),
    (r"part2\.task09\.\w+\.mass_in_window", 0.01),
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    return execute_alone(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def results(executed):
    committed, again = (json.loads((folder / "figures" / "results.json").read_text()) for folder in (ROOT, executed.parent))
    assert committed.keys() == again.keys()
    return committed, again


def test_writes_figures_and_nothing_else(executed):
    assert {p.name for p in executed.parent.iterdir()} == {"ee048954_hw1.ipynb", "executed.ipynb", "figures"}
    assert {p.name for p in (executed.parent / "figures").iterdir()} == {p.name for p in (ROOT / "figures").iterdir()}


def test_nothing_on_stderr(executed):
    assert not [o for cell in code_cells(executed) for o in cell["outputs"] if o.get("name") == "stderr"]


def test_what_does_not_train_agrees_to_rounding(results):
    committed, again = results
    keys = [key for key in committed if re.match(r"part1\.|part2\.one_scale\.\w+\.kde\.", key)]
    assert len(keys) > 60
    for key in keys:
        assert again[key] == pytest.approx(committed[key], rel=1e-6, abs=1e-12), key


def test_trained_flows_agree_within_their_spread(results):
    committed, again = results
    compared = 0
    for key, value in committed.items():
        tolerance = next((t for pattern, t in ALLOWED if re.fullmatch(pattern, key)), None)
        if tolerance is not None:
            assert again[key] == pytest.approx(value, abs=tolerance), key
            compared += 1
    assert compared > 100


def test_conclusions_are_the_same(results):
    for values in results:
        order = sorted(("mixture_half", "mixture_one", "spiral"), key=lambda d: values[f"part1.task4.{d}.total_variation.mean"])
        assert order == ["mixture_one", "mixture_half", "spiral"]
        for task, sign in (("task10", -1), ("task11", -1), ("task12", 1)):
            low, high = (values[f"part2.{task}.difference.total_variation.{end}"] for end in ("low", "high"))
            assert min(sign * low, sign * high) > 0, task
            assert sign * (values[f"part2.{task}.kl_ratio.mean"] - 1) > 0, task
        assert values["part2.one_scale.kde_lower_total_variation"] == 32
        flows = {d: values[f"part2.task09.{d}.total_variation.mean"] for d in ("Circles", "Moons", "GaussiansGrid", "GaussiansRot")}
        assert min(flows, key=flows.get) == "GaussiansGrid" and max(flows, key=flows.get) == "GaussiansRot"


def test_text_that_does_not_depend_on_training_is_the_same_to_the_letter(executed):
    compared = 0
    for saved, again in zip(code_cells(), code_cells(executed), strict=True):
        if "Part II" in str(saved.get("source")):
            break
        if any(name in "".join(saved["source"]) for name in ("train_arms", "runs09", "task09")):
            break
        for one, other in zip(saved["outputs"], again["outputs"], strict=True):
            if "text/markdown" in one.get("data", {}):
                assert one["data"]["text/markdown"] == other["data"]["text/markdown"]
                compared += 1
    assert compared >= 6
