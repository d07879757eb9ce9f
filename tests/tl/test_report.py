"""The report of a benchmark: valid, self-contained, escaped, honest about who wins, and no wider than a phone."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict._report.figures import forest
from stpredict._report.page import page, to_html
from stpredict._report.text import count_noun, interval, join_names, number, verdict

MODELS = {"ridge_color": 0.3, "m2ost": 0.6, "mean_profile": 0.0}
MANY = {f"model_with_a_long_name_{i}": 0.9 - 0.05 * i for i in range(8)} | MODELS
VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


class Tree(HTMLParser):
    """Opening tags with their attributes and ancestors; fails where tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), tag
        self.found.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs, _ in self.found if name == tag]

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture(scope="module")
def pages():
    """Pages that several tests read: the first test to ask for one writes it."""
    return {}


@pytest.fixture
def report(compared, pages):
    if "few models" not in pages:
        pages["few models"] = page(compared(MODELS))
    return pages["few models"]


@pytest.fixture
def without_figures(monkeypatch):
    """For tests of words: figures take most of the time."""
    for name, empty in {"forest": "", "gene_scores": "", "gene_maps": [], "component_maps": []}.items():
        monkeypatch.setattr(f"stpredict._report.page.{name}", lambda *_, empty=empty: empty)


@pytest.fixture
def long_report(compared, pages):
    if "many models" not in pages:
        pages["many models"] = page(compared(MANY))
    return pages["many models"]


def test_it_is_balanced_and_stands_alone(report):
    tree = Tree(report)
    assert report.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _, _ in tree.found}
    without_pixels = re.sub(r"data:image/png;base64,[\w+/=\s]+", "data:", report)
    assert not re.search(r"https?:|//\w|url\((?!#)|@import|@font-face", without_pixels)
    attributes = {name for _, attrs, _ in tree.found for name in attrs}
    assert not {"src", "href"} & attributes
    links = [attrs["xlink:href"] for _, attrs, _ in tree.found if "xlink:href" in attrs]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not [name for name in attributes if name.startswith("on")]
    ids = [attrs["id"] for _, attrs, _ in tree.found if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", report)) <= set(ids)


def test_it_fits_a_phone_without_a_browser(long_report):
    """What keeps a page from scrolling sideways, as far as its text shows."""
    tree = Tree(long_report)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in tree.all("meta")
    for drawing in tree.all("svg"):
        assert "width" not in drawing
        assert re.fullmatch(r"0 0 [\d.]+ [\d.]+", drawing["viewbox"])
    boxes = [parents for tag, _, parents in tree.found if tag == "table"]
    assert boxes
    assert all(parents[-1] == "div" for parents in boxes)
    assert [attrs.get("class") for attrs in tree.all("div")].count("scroll") == len(boxes)


def test_those_who_do_not_see_it_are_told(report):
    tree = Tree(report)
    assert tree.all("html") == [{"lang": "en"}]
    assert all({"aria-label", "aria-labelledby"} & drawing.keys() for drawing in tree.all("svg"))
    assert all(drawing["role"] == "img" for drawing in tree.all("svg"))
    assert {head["scope"] for head in tree.all("th")} == {"col", "row"}
    assert len(tree.all("caption")) == len(tree.all("table"))


def test_every_model_and_section_of_it_is_there(long_report):
    tree = Tree(long_report)
    for model in MANY:
        assert tree.text.replace(" ", "").count(model) >= 5
    titles = ["What was compared", "How well each model predicts", "Which genes are predicted", "All genes on tissue",
              "What it costs", "What failed", "How to repeat it"]  # fmt: skip
    assert all(title in tree.text for title in titles)
    assert len(tree.all("figure")) == 2 * (1 + len(MANY)) + 1  # the colour bar


def test_names_are_escaped(compared):
    evil = '<script>alert("1")</script>&\'"'
    found = compared({evil: 0.5, "ridge_color": 0.2}, slides=('S<b>"', "S&1"))
    found.scores["gene"] = found.scores["gene"].replace("GENE7", "<i>GENE7")
    for model in (evil, "ridge_color"):
        found.table(model).var_names = [*[f"GENE{i}" for i in range(7)], "<i>GENE7"]
    text = page(found)
    tree = Tree(text)
    assert not tree.all("script")
    assert "<i>GENE7" not in text
    assert "S<b>" not in text
    assert evil in tree.text


def test_units_of_lengths(compared):
    found = compared({"m2ost": 0.5}, n_side=12)
    assert "µm</text>" not in page(found)
    found.table("m2ost").uns["um_per_px"] = {"S0": 0.5}
    assert "100 µm</text>" in page(found)


def test_size(compared, tmp_path):
    nine = dict(list(MANY.items())[:9])
    to_html(compared(nine, n_side=71, slides=("S0",), n_genes=40), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 2.5e6


@pytest.mark.usefixtures("without_figures")
def test_one_model(compared):
    text = Tree(page(compared({"m2ost": 0.5}))).text
    assert "Comparison of 1 model" in text
    assert "there is no comparison" in text
    assert "diamond" not in text


@pytest.mark.usefixtures("without_figures")
def test_without_intervals(compared):
    found = compared(MODELS, slides=("S0",), interval=np.nan)
    text = Tree(page(found)).text
    assert "it is not known whether by more than chance" in text
    assert "No interval can be given for 1 patient" in text
    assert "nan" not in text.lower()


@pytest.mark.usefixtures("without_figures")
def test_failures_are_told(compared):
    found = compared(MODELS)
    assert "6 trainings (model x fold x seed) were scored, 0 failed." in Tree(page(found)).text
    at = (found.runs["model"] == "m2ost") & (found.runs["fold"] == 1)
    found.failed = found.runs.loc[at, ["model", "fold", "seed"]].assign(error="MemoryError: <too much>")
    found.runs = found.runs[~at & ~((found.runs["model"] == "ridge_color") & (found.runs["fold"] == 0))]
    text = Tree(page(found)).text
    assert "4 trainings (model x fold x seed) were scored, 1 failed." in text
    assert "MemoryError: <too much>" in text
    assert "Not all folds were run yet: ridge_color." in text


@pytest.mark.usefixtures("without_figures")
def test_a_model_without_a_score_does_not_win(compared):
    found = compared(MODELS)
    summary = found.summary()
    summary.loc["m2ost", ["gene_pearson", "low", "high"]] = np.nan
    found.summary = summary.copy
    text = re.sub(r"\s+", " ", Tree(page(found)).text)
    assert "No model beats the best baseline, ridge_color" in text


@pytest.mark.usefixtures("without_figures")
def test_leakage_is_told(compared):
    assert "LEAK" in Tree(page(compared(MODELS, leaks=True))).text
    assert "LEAK" not in Tree(page(compared(MODELS))).text


@pytest.mark.usefixtures("without_figures")
def test_no_gene_or_too_few(compared):
    assert "All genes on tissue" not in page(compared(MODELS, n_genes=2))
    found = compared(MODELS)
    found.scores.loc[found.scores["metric"] == "pearson", "value"] = np.nan
    text = page(found)
    Tree(text)
    assert "One gene on tissue" not in text


def disk_full(*_, **__):
    raise OSError(28, "No space left on device")


def test_written_whole_or_not_at_all(compared, tmp_path, monkeypatch):
    found = compared({"ridge_color": 0.3, "m2ost": 0.6}, slides=("S0",))
    path = tmp_path / "new" / "report.html"
    to_html(found, str(path))
    first = path.read_text(encoding="utf-8")
    to_html(found, path)
    assert path.read_text(encoding="utf-8") == first  # nothing in it is random
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"`path` is the folder '.*folder'\. Give the name of a file"):
        to_html(found, tmp_path / "folder")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", disk_full)
        with pytest.raises(OSError, match=r"The report was not written to .*report\.html.*Nothing is left"):
            to_html(found, path)
    found.scores = found.scores.drop(columns="gene")
    with pytest.raises(KeyError):
        to_html(found, path)
    assert path.read_text(encoding="utf-8") == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "new"]


def table(gain, spread, *, n_units=8, baseline="base", others=()):
    names = ["best", "base", *others]
    frame = pd.DataFrame({"gene_pearson": 0.3, "low": 0.25, "high": 0.35, "difference": gain, "share_of_ceiling": 0.5},
                         index=names)  # fmt: skip
    frame["difference_low"], frame["difference_high"] = gain - spread, gain + spread
    frame.attrs = {"baseline": baseline, "unit": "patient", "n_units": n_units}
    return frame


@pytest.mark.parametrize(("frame", "expected"), [
    (table(0.1, 0.05), "<strong>best</strong> wins."),
    (table(0.1, 0.1), "No model beats the best baseline by more than chance."),
    (table(0.1, 0.2), "No model beats the best baseline by more than chance."),
    (table(0.1, np.nan), "<strong>best</strong> scores highest; it is not known whether by more than chance."),
    (table(0.1, 0.05, baseline="best"), "No model beats the best baseline, <strong>best</strong>."),
    (table(0.1, 0.05, baseline=None), "No baseline took part"),
])  # fmt: skip
def test_verdict(frame, expected):
    assert expected in verdict(frame)[0]


def test_verdict_says_how_sure_it_is():
    said = " ".join(verdict(table(0.1, 0.05, others=("third",))))
    assert "differs by +0.100 from that of <strong>base</strong>" in said
    assert "95 % interval over patients is +0.050 to +0.150" in said
    assert "0.300 (0.250 to 0.350), 50 % of the noise ceiling" in said
    assert "interval overlaps with those of base, third" in said
    assert "choosing the best of 3" in said
    assert "too few" not in said


def test_few_units_are_no_win():
    """Five differences of one sign come by chance one time in sixteen."""
    assert verdict(table(0.1, 0.05, n_units=5))[0].endswith("5 patients are too few to rule out chance.")
    assert verdict(table(0.1, 0.05, n_units=6))[0] == "<strong>best</strong> wins."
    assert verdict(table(0.1, 0.2, n_units=3))[0] == "No model beats the best baseline by more than chance."


def test_a_surer_model_below_the_best():
    frame = table(0.1, 0.2, others=("third",))
    frame.loc["third", "difference_low"] = 0.01
    said = verdict(frame)
    assert "but not above the best baseline by more than chance" in said[0]
    assert said[2] == "Above the baseline by more than chance: third."


def test_numbers_in_words():
    assert [number(value, "count") for value in (12, 2_340, 18_000_000, 3.1e9, np.nan)] == [
        "12", "2.34 thousand", "18 million", "3.1 billion", "\N{EN DASH}"]  # fmt: skip
    assert number(-0.1234) == "\N{MINUS SIGN}0.123"
    assert number(0.1234, "signed") == "+0.123"
    assert number(0.456, "share") == "46 %"
    assert [number(value, "speed") for value in (0.123, 1234.5)] == ["0.12", "1,234"]
    assert interval(0.1, np.nan) == ""
    assert (count_noun(1, "fold"), count_noun(1200, "fold")) == ("1 fold", "1,200 folds")
    assert join_names(["a", "<b>", "c"], 2) == "a, <b> and 1 more"


def test_forest_marks_baseline_and_ceiling(compared):
    drawn = forest(compared(MODELS).summary(), 0.8)
    assert "noise ceiling" in drawn
    assert drawn.count("#e69f00") >= 3  # line, interval and mean of the best baseline
    assert "noise ceiling" not in forest(compared(MODELS).summary(), np.nan)


def test_text_follows_the_page(report):
    """Text of figures has the colour of the page, so that it can be read in dark mode."""
    assert "#010203" not in report
    assert "currentColor" in report


def test_of_a_real_benchmark(tmp_path):
    sdata = stp.datasets.synthetic(n_slides=3, n_side=4, um_per_px=8.0)
    found = stp.tl.benchmark(sdata, ["mean_profile"], save_dir=tmp_path / "benchmark", progress=False)
    found.to_html(tmp_path / "report.html")
    text = Tree((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "No model beats the best baseline, ridge_color" in re.sub(r"\s+", " ", text)
    assert "48 spots" in text
    assert "log1p CP10k" in text
    assert "6 trainings (model x fold x seed) were scored, 0 failed." in text
    assert "500 µm" not in text  # 600 µm of tissue: a quarter is shorter
    assert "200 µm" in text
    assert re.search(r"Trained with stpredict \S+, torch \S+, python 3", text)
    assert found.note["study"]["slides"]["S0_spots"]["sha256"][:16] in text


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (`pip install playwright`)")
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("needs the binary `chromium` (`apt-get install chromium`)")
    with playwright.sync_playwright() as driver:
        options = ["--headless", "--no-sandbox", "--disable-gpu"]
        opened = driver.chromium.launch(executable_path=binary, args=options)
        yield opened
        opened.close()


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (320, "light"), (1200, "light")])
def test_in_a_browser(browser, long_report, tmp_path, width, scheme):
    (tmp_path / "report.html").write_text(long_report, encoding="utf-8")
    tab = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    asked, said = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(Path(tmp_path / "report.html").as_uri(), timeout=0)  # the machine may be busy
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    drawn = "[...document.querySelectorAll('svg')].map(drawing => drawing.getBoundingClientRect())"
    sizes = tab.evaluate(f"{drawn}.map(box => [box.width, box.height])")
    assert len(sizes) == 2 + 2 * (1 + len(MANY)) + 1
    assert np.min(sizes) > 20
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(22, 24, 27)" if scheme == "dark" else "rgb(255, 255, 255)"
    )
    assert len(asked) == 1  # the file itself
    assert not said
