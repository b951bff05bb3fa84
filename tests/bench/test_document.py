"""Tables between markers."""

from drlpp.bench.document import markdown_table, write_section


def test_a_section_is_added_and_then_replaced(tmp_path):
    path = tmp_path / "page.md"
    write_section(path, "a", "one")
    write_section(path, "b", "two")
    assert path.read_text() == (
        "# Benchmarks\n\n<!-- a:begin -->\none\n<!-- a:end -->\n\n<!-- b:begin -->\ntwo\n<!-- b:end -->\n"
    )
    write_section(path, "a", "three\n")
    assert "one" not in path.read_text()
    assert path.read_text().index("three") < path.read_text().index("two")


def test_table():
    assert markdown_table(["x", "y"], [["1", "a|b"]]) == "| x | y |\n| --- | --- |\n| 1 | a\\|b |\n"
