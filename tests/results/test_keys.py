"""Content keys: the same content has the same key, in every version from now on."""

import pytest

from sharpbench.invariance import transformations
from sharpbench.metrics import metrics
from sharpbench.registry import Plugin
from sharpbench.results import keys


def test_a_key_is_of_the_content_whatever_its_order():
    assert keys.content_key({"a": 1, "b": [1, 2]}) == keys.content_key({"b": [1, 2], "a": 1})
    assert keys.content_key({"a": 1}) != keys.content_key({"a": 2})


def test_stored_results_keep_their_keys(monkeypatch):
    """Computed by the version of sharpbench whose results are stored: another key measures all anew."""
    metric, change = metrics.create("margin"), transformations.create("sign_flip")
    identities = {
        "margin": {
            "name": "margin",
            "version": 2,
            "samples": "all",
            "split": "test",
            "dtype": "float64",
        },
        "sign_flip": {"name": "sign_flip", "version": 1},
    }
    monkeypatch.setattr(Plugin, "identity", lambda self: identities[self.name])
    assert [
        keys.question_key(metric, None, 0),
        keys.question_key(metric, change, 1),
        keys.trajectory_question(metric, 5),
        keys.evaluation_question(3, 15),
        keys.figure_key("s", "w", "q"),
        keys.trajectory_figure_key("s", "q", 3),
        keys.change_key(change, 2),
        keys.part_of_figure("k", "ece"),
    ] == [
        "55e95091aa90d67ee15d3f4183b56e2aa69d8b68fb4cc13557173eb6c3145672",
        "1fd22606bee2b0852a2b7d769d8915faaa0d33da1de41b6eb6ed64d420c6cf86",
        "f94034ee8cc4e0852a80c45efac28ee984ae60daedb1f4db48d51dea06d66fbc",
        "00e37a2ca2aed0d08f92183bfb6f081b32db3b59627afcc25754f8fdc803f270",
        "3e6cb84f66beec1245201a9db4fd9b7e7ab71c6cb078ff821e247b4c31a2e412",
        "e405776699eb5f058189fefdf4d451cf0da1c6be46f62b30db185ce3053085b2",
        "f15b9ce0ede01eceff3fa5c2a3a2d636225b783df95872e3b06a660afb14cce9",
        "k:ece",
    ]


@pytest.mark.parametrize("parts", [("s", "w", "other"), ("s", "x", "q"), ("t", "w", "q")])
def test_a_figure_is_of_its_subject_its_weights_and_its_question(parts):
    assert keys.figure_key(*parts) != keys.figure_key("s", "w", "q")
