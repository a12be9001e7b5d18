"""The rules of the house: imports go down, nothing goes round, every plug-in says what it is."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from sharpbench.plugins import KINDS, registry_of
from tests.imports import DOOR, FLOORS, PACKAGE, cycles, floor_arrows, module_imports, picture

PLUGINS = [
    (kind, name) for kind in KINDS if kind != "section" for name in registry_of(kind)
]  # a section asks, it defines nothing


@pytest.fixture(scope="module")
def imports():
    return module_imports()


def test_every_folder_has_its_floor():
    there = {p.stem if p.suffix else p.name for p in PACKAGE.iterdir()}
    there -= {"__init__", "__pycache__", "py", "_suites"}
    listed = [folder for floor in FLOORS for folder in floor]
    assert sorted(listed) == sorted(name for name in there if not name.startswith("py."))


def test_imports_go_down(imports):
    order = {folder: i for i, folder in enumerate(f for floor in FLOORS for f in floor)}
    order[DOOR] = len(order)
    up = {
        pair: modules
        for pair, modules in floor_arrows(imports).items()
        if order[pair[0]] <= order[pair[1]]
    }
    assert up == {}


def test_no_import_goes_round(imports):
    assert cycles(imports) == []


def test_the_scan_sees_every_kind_of_import(tmp_path):
    package = tmp_path / "house"
    (package / "attic").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "attic" / "__init__.py").write_text("from . import box\n")
    (package / "attic" / "box.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.cellar import Coal\n"
    )
    (package / "cellar.py").write_text(
        "def deep():\n    import house.attic.box as b\n    from ..house import attic\n"
    )
    found = module_imports(package)
    assert found["house.attic"] == {"house.attic.box"}
    assert found["house.attic.box"] == {"house.cellar"}
    assert found["house.cellar"] == {"house.attic", "house.attic.box"}
    assert cycles(found) == [["house.attic", "house.attic.box", "house.cellar"]]
    assert set(floor_arrows(found)) == {("attic", "cellar"), ("cellar", "attic")}


def test_the_picture_of_imports_has_no_arrow_up():
    drawn = ET.fromstring(picture())
    space = "{http://www.w3.org/2000/svg}"
    assert {t.text for t in drawn.iter(f"{space}text")} == {f for floor in FLOORS for f in floor}
    arrows = [p for p in drawn.iter(f"{space}path") if p.get("marker-end")]
    assert len(arrows) > 20
    assert [p for p in arrows if p.get("stroke") == "#c22"] == []


def test_the_picture_of_imports_is_the_one_in_the_documentation():
    drawn = PACKAGE.parent / "docs" / "imports.svg"
    assert drawn.read_text("utf-8") == picture(), "python -m tests.imports docs/imports.svg"


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_plugin_says_what_it_is_and_where_it_comes_from(kind, name):
    cls = registry_of(kind).get(name)
    assert "__doc__" in vars(cls)
    definition = (cls.__doc__ or "").strip().split("\n\n")[0]
    assert len(definition) > 30
    assert definition[-1] in ".:"
    assert cls.reference.strip()


@pytest.mark.parametrize("name", registry_of("metric").names())
def test_a_metric_declares_its_unit_in_symbols(name):
    cls = registry_of("metric").get(name)
    without = re.sub(r"\[(loss|output|input|weight)\]", "", cls.unit)
    assert re.fullmatch(r"(log )?1?[√/²]*", without), cls.unit
