"""Removed pixels of digits: more likely, nearer and as uncertain as promised."""

import pytest
from digits_imputers import IMPUTERS, digits, fitted, score_of_guide, score_of_imputer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_removed_pixels_are_predicted_better_than_by_imputers_of_scikit_learn():
    y, present = digits()
    ours = score_of_guide(fitted(y, present), y, present)
    for make in IMPUTERS.values():
        theirs, _ = score_of_imputer(make, y, present)
        assert ours.log_likelihood > theirs.log_likelihood + 0.1
        assert ours.error < theirs.error
    assert 0.87 < ours.coverage < 0.93
