"""The code of pages that need no files runs as it is printed, on synthetic slides. A new page is run without a list."""

from __future__ import annotations

import logging
import re
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib import pyplot as plt

import stpredict as stp

HERE = Path(__file__).parent
pages = SimpleNamespace(**runpy.run_path(str(HERE / "pages.py")))
TESTED = "".join(file.read_text(encoding="utf-8") for file in (HERE / "io/test_howto.py", Path(__file__)))
ELSEWHERE = {
    "extending": "tests/test_extending.py",
    "gallery": "docs/images/gallery.py: ten minutes on real sections",
}
QUICK = {"api", "howto/messages"}
ALONE = sorted(set(pages.with_code()) - set(re.findall(r'pages\.\w+\("([\w/]+)"', TESTED)) - set(ELSEWHERE))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # few and small slides


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Files, figures and levels of messages are those of one page."""
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")
    logging.getLogger("stpredict").setLevel(logging.NOTSET)


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page not in QUICK)) for page in ALONE])
def test_code_runs(page):
    pages.run(page)


def test_lines_fit_the_page():
    code = "".join(block for text in pages.with_code().values() for block in pages.BLOCK.findall(text))
    assert [line for line in code.splitlines() if len(line) > 90] == []


@pytest.mark.slow
def test_fewer_molecules_have_a_lower_ceiling(capsys):
    pages.run("concepts/ceiling")
    all_molecules, few = map(float, capsys.readouterr().out.split())
    assert few < all_molecules


@pytest.mark.slow
def test_start(monkeypatch):
    """With one epoch."""
    monkeypatch.setattr(stp.tl, "fit", partial(stp.tl.fit, config={"n_epochs": 1}))
    found = pages.run("start")
    assert found.sdata["predicted"].n_obs == 64
    assert Path("my-first-predictor").is_dir()


@pytest.mark.slow
def test_weights_in_a_file():
    """The weights are random."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet18").state_dict(), "resnet18.safetensors")
    found = pages.run("models/m2ost")
    assert len(found.predictor.models) == 3
