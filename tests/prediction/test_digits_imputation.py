"""Removed pixels of digits: more likely, nearer and as uncertain as promised."""

import pytest
from digits_imputers import (
    IMPUTERS,
    LATENTS,
    choose,
    digits,
    fitted,
    score_of_guide,
    score_of_imputer,
)


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


@pytest.mark.slow
def test_the_number_of_latents_is_the_best_for_pixels_held_out_among_those_that_are_there():
    scores = choose(*digits())
    assert max(scores, key=scores.get) == LATENTS
