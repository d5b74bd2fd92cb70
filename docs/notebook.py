"""Execute the notebooks of docs/notebooks without a Jupyter server, and show them as pages.

python docs/notebook.py NOTEBOOK.ipynb     run every code cell and keep what it shows

A notebook is code cells run in order in one namespace; text and the last figure of a cell are what
it shows. That is all that these pages use, so no kernel is needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
_FIGURE = "image/svg+xml"


def read(path: Path) -> Notebook:
    """A notebook from its file."""
    return json.loads(path.read_text(encoding="utf-8"))


def execute(notebook: Notebook) -> dict[str, Any]:
    """Run every code cell in order; outputs are stored in the cells.

    Args:
        notebook: changed in place.

    Returns:
        The namespace that the cells leave.
    """
    # Only who executes needs matplotlib; who reads the pages does not.
    import matplotlib

    matplotlib.use("Agg")
    namespace: dict[str, Any] = {"__name__": "__notebook__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    style = {"svg.hashsalt": "notebook", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        for number, cell in enumerate(cells, start=1):
            shown = io.StringIO()
            source = "".join(cell["source"])
            with contextlib.redirect_stdout(shown):
                exec(compile(source, f"cell {number}", "exec"), namespace)  # noqa: S102
            cell["execution_count"] = number
            cell["outputs"] = _outputs(shown.getvalue())
    return namespace


def text_of(notebook: Notebook) -> list[str]:
    """What the code cells printed, in order."""
    return [
        "".join(output["text"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    ]


def page(notebook: Notebook, *, source: str, picture: str) -> tuple[str, str]:
    """The notebook as Markdown, and its figure as SVG.

    Args:
        notebook: with outputs.
        source: name of its file, for the note on top.
        picture: path of the figure, relative to the page.
    """
    lines, figure = [f"<!-- Written by docs/generate.py from {source}. -->", ""], ""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [text, ""]
            continue
        lines += ["```python", text, "```", ""]
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                lines += ["```text", "".join(output["text"]).rstrip(), "```", ""]
            else:
                figure = "".join(output["data"][_FIGURE])
                lines += [f"![{output['data']['text/plain']}]({picture})", ""]
    return "\n".join(lines).rstrip() + "\n", figure


def _outputs(text: str) -> list[dict[str, Any]]:
    import matplotlib.pyplot as plt

    outputs: list[dict[str, Any]] = []
    if text:
        stream = {"output_type": "stream", "name": "stdout"}
        outputs.append({**stream, "text": text.splitlines(keepends=True)})
    if plt.get_fignums():
        drawing = io.StringIO()
        plt.gcf().savefig(drawing, format="svg", metadata={"Date": None})
        labels = [axes.get_ylabel() for axes in plt.gcf().axes]
        plt.close("all")
        data = {_FIGURE: drawing.getvalue().splitlines(keepends=True)}
        data["text/plain"] = f"Figure: {'; '.join(labels)}"
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return outputs


def main(arguments: list[str]) -> int:
    """Execute notebooks and write them back; returns the exit code."""
    for name in arguments:
        notebook = read(Path(name))
        execute(notebook)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        Path(name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
