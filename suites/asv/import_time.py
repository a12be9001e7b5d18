"""How long a user waits before anything happens."""


class Import:
    timeout = 120

    def timeraw_command_line(self) -> str:
        """The command line alone: `sharpbench --help` must not wait for torch."""
        return "import sharpbench.cli"

    def timeraw_package(self) -> str:
        return "import sharpbench"

    def timeraw_metrics(self) -> str:
        return "from sharpbench.metrics import metrics; [metrics.get(n) for n in metrics]"
