"""What is quoted of a measurement is what is recorded of it."""

import numpy as np
import pytest
from scipy.stats import t as student_t


def test_mean_of_repetitions_has_students_interval(nb):
    values = np.array([0.3, -0.1, 0.2, 0.7, 0.4])
    text = nb.record_mean("test.mean", values, "+.2f")
    half = student_t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    low, high = values.mean() - half, values.mean() + half
    recorded = [nb.RESULTS[f"test.mean.{name}"] for name in ("mean", "low", "high")]
    np.testing.assert_allclose(recorded, [values.mean(), low, high], rtol=1e-7)
    assert text == f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f})"


def test_median_of_repetitions_has_their_range(nb):
    assert nb.record_median("test.median", [3, 1, 2, 10], ".1f") == "2.5 (1.0 to 10.0)"


@pytest.mark.parametrize("value, form, text", [
    (-0.0001, ".3f", "-0.000"), (112.3, "#.2g", "1.1e2"), (23.4, "#.2g", "23"),
    (0.00085, ".1e", "8.5e-04"), (41, ".0f", "41")])
def test_numbers_are_quoted_with_their_sign_and_without_idle_characters(nb, value, form, text):
    assert nb.record("test.number", value, form) == text
