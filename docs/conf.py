"""How the documentation is built: `make docs`."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.ext.intersphinx import missing_reference
from sphinx.ext.napoleon import NumpyDocstring

if TYPE_CHECKING:
    from docutils.nodes import TextElement, math, math_block, reference
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.writers.html5 import HTML5Translator

project = "stpredict"
author = "the stpredict developers"
project_copyright = f"2026, {author}"
release = metadata.version("stpredict-histology")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

# pages and notebooks: notebooks are committed with their outputs and shown as they are
nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# API: `__all__` defines what is documented; types come from the annotations
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
maximum_signature_line_length = 88
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = False
napoleon_use_rtype = False

# formulas are MathML, which browsers draw without a script and without a network
html_math_renderer = "mathml"

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# links to other projects need the internet, so only the published build has them
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
    if os.environ.get("READTHEDOCS")
    else {}
)

# every name must resolve: ours to a page, those of other projects to their documentation where it can be reached
nitpicky = True
SHORT = {
    "AnnData": "anndata.AnnData", "ArrayLike": "numpy.typing.ArrayLike",
    "Axes": "matplotlib.axes.Axes", "Client": "distributed.Client", "Colormap": "matplotlib.colors.Colormap",
    "Fabric": "lightning_fabric.Fabric", "NDArray": "numpy.typing.NDArray", "Path": "pathlib.Path",
    "PathLike": "os.PathLike", "SpatialData": "spatialdata.SpatialData", "Tensor": "torch.Tensor",
    "csr_matrix": "scipy.sparse.csr_matrix", "sparray": "scipy.sparse.sparray", "spmatrix": "scipy.sparse.spmatrix",
}  # fmt: skip
ALIASES = {"ad": "anndata", "nn": "torch.nn", "np": "numpy", "pd": "pandas"}
_others = {name.partition(".")[0] for name in SHORT.values()} | set(ALIASES.values()) | {"collections", "torch"}
_ours = (  # names of unions and of private classes, whose values the text of the parameter lists
    "Adaptation|Anchor|BatchLimit|BenchmarkLike|BestEpoch|By|Calibration|Clusterer|ColorRange|DataOrPath|EnsembleSpec|GenesIn|"
    "HasHistory|ImageRange|Layout|Measured|Member|Method|Outline|Prediction|RankingMethod|Regions|SlideAppearance|"
    "SlideRecord|StainMethod|"
    r"Uncertainty|ValidationRecord|Weights|WithProvenance|stpredict\._train\.shared\.SharedPatches"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({'|'.join(sorted(_others | set(ALIASES)))})\..+"), ("py:.*", "|".join(SHORT)), ("py:.*", _ours),
    ("py:obj", r"stpredict\.models\.DEFAULT"),  # a string, which has no page of its own
]  # fmt: skip

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_theme_options = {
    "path_to_docs": "docs",
    "repository_branch": "main",
    "repository_url": "https://github.com/stpredict/stpredict",
    "use_edit_page_button": True,
    "use_issues_button": True,
    "use_repository_button": True,
}


# Types come from the annotations, so the text under "Returns" or a field is prose: a colon in it does not end a type.


def _returns(docstring: NumpyDocstring, _section: str) -> list[str]:
    lines = docstring._dedent(docstring._consume_to_next_section())
    return docstring._format_block(":returns: ", lines)


NumpyDocstring._parse_returns_section = _returns
NumpyDocstring._parse_attribute_docstring = NumpyDocstring._consume_to_end


def _copy_tutorials(app: Sphinx) -> None:
    """Copy the notebooks, which are outside of `docs/`, to the folder of the pages."""
    pages = Path(app.srcdir, "tutorials")
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    for path in Path(app.srcdir).parent.glob("tutorials/*.ipynb"):
        shutil.copy2(path, pages)


def _resolve_short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: TextElement) -> reference | None:
    """Resolve the short name of a class of another project by its full name in the documentation of that project."""
    short = node.get("reftarget", "")
    root, _, rest = short.partition(".")
    full = SHORT.get(short) or (f"{ALIASES[root]}.{rest}" if root in ALIASES else None)
    if full is None:
        return None
    node["reftarget"] = full
    found = missing_reference(app, env, node, text)
    node["reftarget"] = short
    return found


def _visit_math(page: HTML5Translator, node: math) -> None:
    page.body.append(tex2mathml(node.astext()))
    raise SkipNode


def _visit_math_block(page: HTML5Translator, node: math_block) -> None:
    page.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
    app.connect("builder-inited", _copy_tutorials)
    app.connect("missing-reference", _resolve_short_name)
