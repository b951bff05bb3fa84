"""Plans in the forms that other engines and viewers read."""

from drlpp.export.chrome_trace import chrome_trace
from drlpp.export.read_trace import read_chrome_trace
from drlpp.export.registry import EXPORTERS, Exporter, get_exporter

__all__ = ["EXPORTERS", "Exporter", "chrome_trace", "get_exporter", "read_chrome_trace"]
