"""Turn an executed notebook into one HTML file that needs no network."""

from pathlib import Path

from imagelab.glue import SCRAP_TYPE
from imagelab.whole_file import write_text

# Each is the address of a script on somebody else's server; our notebooks hold no formulas and no live widgets.
_SCRIPTS = ("mathjax_url", "require_js_url", "jquery_url", "jupyter_widgets_base_url", "mermaid_js_url")


def write_html(notebook: Path) -> Path:
    """Write NAME.html beside NAME.ipynb, pictures embedded and scraps left out, and return its path."""
    import nbformat
    from nbconvert import HTMLExporter

    node = nbformat.read(notebook, as_version=4)
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if SCRAP_TYPE not in output.get("data", {})]
    exporter = HTMLExporter(template_name="lab", embed_images=True, **dict.fromkeys(_SCRIPTS, ""))
    text, _ = exporter.from_notebook_node(node, resources={"metadata": {"name": notebook.stem}})
    return write_text(text, notebook.with_suffix(".html"))
