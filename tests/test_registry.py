import signal
from dataclasses import dataclass

import pytest

from sharpbench.errors import InputError
from sharpbench.metrics import metrics
from sharpbench.registry import Plugin, Registry, import_object


@dataclass(frozen=True)
class Fruit(Plugin):
    """A fruit."""

    name = "fruit"
    size: float = 1.0
    stones: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"size must be positive, got {self.size}")


@pytest.fixture
def registry() -> Registry:
    builtins = {"fruit": f"{__name__}:Fruit", "broken": "no_such_package_at_all:Thing"}
    return Registry("fruit", Fruit, group="sharpbench.test_fruits", builtins=builtins)


def test_create_resolves_defaults_and_converts_lists(registry):
    assert registry.create("fruit", {"stones": [1, 2]}).parameters() == {
        "size": 1.0,
        "stones": [1, 2],
    }


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("friut", {}, "unknown fruit 'friut'. Did you mean 'fruit'"),
        ("fruit", {"sise": 2}, "no parameter 'sise'. Did you mean 'size'"),
        ("fruit", {"size": "big"}, "parameter 'size' = 'big'"),
        ("fruit", {"size": -1}, "size must be positive, got -1"),
        ("broken", {}, "unavailable: ModuleNotFoundError"),
    ],
)
def test_bad_input_is_explained(registry, name, parameters, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        registry.create(name, parameters)


def test_a_broken_plugin_is_listed_with_its_reason(registry):
    assert registry.names() == ["broken", "fruit"]
    assert "no_such_package_at_all" in registry.unavailable("broken")
    assert registry.unavailable("fruit") is None


def test_collisions_and_malformed_plugins_are_refused(registry):
    registry.get("fruit")

    @dataclass(frozen=True)
    class Other(Fruit):
        """Another."""

        name = "fruit"

    with pytest.raises(ValueError, match="already registered"):
        registry.register(Other)

    @dataclass
    class Thawed(Plugin):
        """Not frozen."""

        name = "thawed"

    with pytest.raises(TypeError, match="must derive from Fruit"):
        registry.register(Thawed)

    @dataclass(frozen=False, unsafe_hash=True)
    class Melted(Plugin):
        """Not frozen either."""

        name = "melted"

    @dataclass(frozen=True)
    class Silent(Plugin):
        name = "silent"

    anything = Registry("thing", Plugin, group="sharpbench.none", builtins={})
    with pytest.raises(TypeError, match="frozen dataclass"):
        anything.register(Melted)
    with pytest.raises(TypeError, match="needs a docstring"):
        anything.register(Silent)


def test_label_holds_only_what_differs_from_the_defaults():
    assert metrics.create("sam_sharpness").label == "sam_sharpness"
    changed = metrics.create("curvature_rate", {"orders": [1, 2], "directions": 3})
    assert changed.label == "curvature_rate(orders=[1,2], directions=3)"


def test_a_users_own_interrupt_is_no_fault_of_the_module_being_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stops_itself.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "is_stopped.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n"
    )
    # A process started in the background of a script ignores Ctrl-C: here it must arrive.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(ImportError, match="'stops_itself' raised KeyboardInterrupt"):
            import_object("stops_itself:Metric")
        with pytest.raises(KeyboardInterrupt):
            import_object("is_stopped:Metric")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("pointer", ["json", "json:", ":loads", ""])
def test_a_place_that_names_no_object_is_told_so(pointer):
    with pytest.raises(ImportError, match=r"must be package\.module:name"):
        import_object(pointer)


def test_two_classes_of_one_name_are_refused_whoever_comes_first(registry):
    @dataclass(frozen=True)
    class Pear(Fruit):
        """A pear."""

        name = "pear"

    first = registry.register(Pear)
    other = dataclass(frozen=True)(
        type("Other", (Fruit,), {"__doc__": "Another.", "name": "pear", "__module__": "elsewhere"})
    )
    with pytest.raises(ValueError, match="'pear' of elsewhere:Other is already registered by"):
        registry.register(other)
    assert registry.get("pear") is first
    assert registry.available() == ["fruit", "pear"]
