"""The scores by name, for tests that go through all of them."""

from flint_posthoc.interpretation.attribution.scores import (
    ScoreFunction,
    attribute_scores,
    classifier_scores,
    interpreter_scores,
    preactivation_scores,
)

SCORES: dict[str, ScoreFunction] = {
    "attributes": attribute_scores,
    "preactivations": preactivation_scores,
    "interpreter": interpreter_scores,
    "classifier": classifier_scores,
}
