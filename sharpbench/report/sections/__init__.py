"""The sections of the report; each one in a file of its own, with its template in ``templates/sections``."""

from sharpbench.registry import Registry
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Picture", "Section", "sections"]

_HERE = "sharpbench.report.sections"

sections: Registry[Section] = Registry(
    "section",
    Section,
    group="sharpbench.sections",
    builtins={
        "scorecard": f"{_HERE}.scorecard:Scorecard",
        "paper": "sharpbench.paper.section:PaperSection",
        "falsification": "sharpbench.falsification.section:FalsificationSection",
        "right": f"{_HERE}.right:Right",
        "invariant": f"{_HERE}.invariant:Invariant",
        "predictive": f"{_HERE}.predictive:Predictive",
        "generalization": f"{_HERE}.generalization:Generalization",
        "streams": f"{_HERE}.streams:Streams",
        "costly": f"{_HERE}.costly:Costly",
        "training": f"{_HERE}.training:Training",
        "reliability": f"{_HERE}.reliability:Reliability",
        "boundaries": f"{_HERE}.boundaries:Boundaries",
        "figures": f"{_HERE}.every_figure:EveryFigure",
        "growth": f"{_HERE}.growth:Growth",
        "failed": f"{_HERE}.failed:Failed",
        "provenance": f"{_HERE}.provenance:Provenance",
    },
)
