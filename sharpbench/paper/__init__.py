"""The audit of arXiv:2511.01438: its claims, what the records say of them, its section of the report.

``evidence`` is how figures are read from the records, ``claims`` what the paper states with the rules that
judge it, ``questions`` what it did not ask, ``figures`` its pictures, ``table`` all of it in Markdown
(``python -m sharpbench.paper``). What an audit is, whoever is audited, stands in `sharpbench.analysis.audit`.
"""
