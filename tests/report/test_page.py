"""The page as a browser shows it: opened from disk, in Debian's Chromium without a display."""

import html
import json
import re
import shutil

import pytest
from playwright.sync_api import sync_playwright

from report import page
from report.figures import ORDER
from report.results import load
from report.verdicts import Verdict
from support import whole_study
from support.study_tree import Cell, Experiment, Trial, tuning, write_study

HOSTILE = ('"><script>alert(1)</script><img src=x onerror=alert(1)>'
           '<a href="https://example.org">&lt;b&gt;</a>')
# The name of an experiment is that of a folder too.
HOSTILE_NAME = '"><script>alert(1)<'
DRAWN = "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
# Marks of a trace; a heat map is an image.
MARKS = ".trace path, .trace .point, .heatmaplayer image"

VERDICTS = [
    Verdict("C1", "Fewer steps", "Batch norm needs fewer steps.", "supported", "0.7 times", 0.6,
            0.8, "times", 10, figure="fig-steps", flags=["learning rate at the grid's edge"]),
    Verdict("C2", "Higher rates", "Batch norm bears higher rates.", "refuted", "1.1 times [1, 1.2]",
            1.0, 1.2, "times", 10, "the interval holds 1", "fig-divergence"),
    Verdict("S5", "Small groups", "M = 2 is worse.", "undecided", "",
            reason="no trial has M = 2", figure="fig-nothing", experiment="m_sweep, elsewhere"),
    Verdict("S1", "The paper's net", "It is faster.", "undecided", "", reason="no finished trials",
            figure="fig-units", experiment="elsewhere"),
]


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    assert chromium, "these tests need the program chromium: install Debian's package of that name"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page with all that went wrong while it was open."""

    def __init__(self, browser, path, width):
        self.faults = []
        self.tab = browser.new_page(viewport={"width": width, "height": 900})
        self.tab.on("console", lambda message: self.faults.append(message.text)
                    if message.type in ("error", "warning") else None)
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("requestfailed", lambda request: self.faults.append(request.url[:200]))
        self.tab.on("request", lambda request: self.faults.append(request.url[:200])
                    if not request.url.startswith(("file:", "data:", "blob:")) else None)
        self.tab.on("dialog", lambda dialog: (self.faults.append("a dialog"), dialog.dismiss()))
        self.tab.goto(path.as_uri())
        self.tab.wait_for_function(DRAWN)

    def overflow(self):
        """Pixels by which the page is wider than its window."""
        return self.tab.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = whole_study.write(tmp_path_factory.mktemp("page") / "study-whole")
    return page.write(load([folder]), VERDICTS, folder / "report")


@pytest.fixture(scope="module")
def desktop(browser, path):
    return Opened(browser, path, 1280)


def test_what_the_studies_do_not_ask_is_folded_away(desktop):
    folded = desktop.tab.locator("details.others")
    assert folded.count() == 1 and folded.locator("summary").inner_text() == "Not asked here: S1"
    assert not desktop.tab.locator("#verdict-S1").is_visible()
    assert desktop.tab.locator("#verdict-S5").is_visible(), "one of its experiments is there"
    assert "S1" not in desktop.tab.locator("#undecided + ul").inner_text()


def test_it_opens_without_a_fault_and_every_figure_is_drawn(desktop):
    drawn = desktop.tab.evaluate(
        """marks => [...document.querySelectorAll('.plot')].map(
             plot => [plot.dataset.spec, plot.querySelectorAll(marks).length])""", MARKS)
    assert [name for name, marks in drawn if marks == 0] == []
    assert {name.rsplit("-", 1)[0] for name, _ in drawn} == {kind.id for kind in ORDER}
    assert desktop.faults == []
    assert desktop.overflow() == 0


def test_a_fault_would_be_noticed(browser, hostile, tmp_path):
    """What the policy forbids is in the faults; a script that is not the page's own never runs."""
    broken = tmp_path / "index.html"
    text = hostile.read_text().replace("<h2", '<img src="https://example.org/x.png"><h2', 1)
    broken.write_text(text.replace("</body>", "<script>alert(1)</script></body>"))
    faults = " ".join(Opened(browser, broken, 800).faults)
    assert "example.org" in faults and "Content Security Policy" in faults
    assert "a dialog" not in faults


def test_verdicts_come_first_with_words_intervals_and_links(desktop):
    tab = desktop.tab
    assert tab.locator("main h2").first.inner_text() == "Verdicts"
    row = tab.locator("#verdict-C1").inner_text()
    assert re.search(r"✓\s*supported", row) and "0.7 times" in row and "[0.6, 0.8]" in row
    assert "learning rate at the grid's edge" in row
    assert tab.locator("#verdict-C1 a").get_attribute("href") == "#fig-steps"
    assert tab.locator("#verdict-C2").inner_text().count("[") == 1, "the effect says it already"
    undecided = tab.locator("#verdict-S5").inner_text()
    assert "undecided" in undecided and "no trial has M = 2" in undecided
    assert "no trial has M = 2" in tab.locator("#undecided + ul").inner_text()


def test_every_link_leads_somewhere(desktop, path):
    targets = desktop.tab.evaluate("[...document.querySelectorAll('a')].map(a => "
                                   "a.getAttribute('href'))")
    assert len(targets) > 20
    for target in targets:
        if target == "#fig-nothing":
            continue  # a verdict of the test above, on a figure that there is not
        found = (desktop.tab.evaluate("id => !!document.getElementById(id)", target[1:])
                 if target.startswith("#") else (path.parent / target).is_file())
        assert found, target


def test_headings_are_in_order_and_figures_are_described(desktop):
    levels = desktop.tab.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map("
                                  "heading => +heading.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:]))
    assert desktop.tab.evaluate("document.documentElement.lang") == "en"
    assert desktop.tab.evaluate(
        "[...document.querySelectorAll('.plot')].every(plot => plot.ariaLabel.length > 10 && "
        "document.getElementById(plot.getAttribute('aria-describedby')))")


def test_hover_shows_values(desktop):
    tab = desktop.tab
    plot = tab.locator("[data-spec='fig-depth-1']")
    plot.scroll_into_view_if_needed()
    point = plot.locator(".scatterlayer .trace .points path").last.bounding_box()
    tab.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    label = plot.locator(".hoverlayer .hovertext")
    label.wait_for()
    assert re.search(r"BN M=Bhidden layers: 8.*accuracy: 97\.\d\d%", label.text_content())


def test_a_figure_is_saved_as_svg(desktop):
    plot = desktop.tab.locator("[data-spec='fig-depth-1']")
    plot.hover()
    with desktop.tab.expect_download() as download:
        plot.locator(".modebar-btn[data-title^='Download']").click()
    assert download.value.suggested_filename == "fig-depth-1.svg"
    assert desktop.faults == []


TOOLS = {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}


def test_no_tool_of_a_figure_sends_it_anywhere(desktop):
    """Plotly offers to upload a chart to its company's servers. The tools are listed, and not the
    unwelcome one alone, so that a newer plotly's own ideas are seen here too."""
    bars = desktop.tab.evaluate("""() => [...document.querySelectorAll('.plot')].map(plot => ({
        name: plot.dataset.spec, links: plot.querySelectorAll('a').length,
        server: plot._context.plotlyServerURL,
        tools: [...plot.querySelectorAll('.modebar-btn')].map(tool => tool.dataset.title)}))""")
    assert len(bars) > 30
    for bar in bars:
        assert "Download plot" in bar["tools"], bar
        assert set(bar["tools"]) <= TOOLS, bar
        assert bar["links"] == 0 and bar["server"] == "", bar


def test_a_zoomed_axis_has_ticks(desktop):
    count = """() => {
      const plot = document.querySelector("[data-spec='fig-steps-1']");
      return plot.querySelectorAll('.xtick').length; }"""
    zoom = """range => Plotly.relayout(document.querySelector("[data-spec='fig-steps-1']"),
                                       {'xaxis.range[0]': range[0], 'xaxis.range[1]': range[1]})"""
    desktop.tab.evaluate(zoom, [2.15, 2.25])
    assert desktop.tab.evaluate(count) >= 2


def test_a_phone_has_no_sideways_scroll(browser, path):
    phone = Opened(browser, path, 360)
    assert phone.overflow() == 0
    wide = phone.tab.evaluate("""[...document.querySelectorAll('main *')].filter(element =>
        !element.closest('.scroll, svg') && element.getBoundingClientRect().right > innerWidth + 1
        ).map(element => element.outerHTML.slice(0, 80))""")
    assert wide == []
    phone.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert phone.overflow() == 0, "tables scroll in boxes of their own"
    assert phone.faults == []


@pytest.fixture
def printed(desktop):
    """As Chromium lays it out for A4 less its margins, figures drawn for the screen."""
    desktop.tab.emulate_media(media="print")
    desktop.tab.set_viewport_size({"width": 702, "height": 900})
    yield desktop
    desktop.tab.emulate_media(media="screen")
    desktop.tab.set_viewport_size({"width": 1280, "height": 900})


def test_print_fits_and_shows_what_is_folded(printed):
    printed.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert printed.overflow() == 0
    assert printed.tab.locator("details:not([open])").count() == 0
    assert printed.tab.locator(".modebar-container .modebar").first.is_hidden()
    too_wide = printed.tab.evaluate("""[...document.querySelectorAll('.plot .main-svg, table')]
        .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
        .map(element => element.closest('section, details, div').textContent.slice(0, 80))""")
    assert too_wide == []
    printed.tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert printed.tab.locator("details[open]").count() == 0


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a study in which every text is an attack."""
    cells = [Cell({"train.batch": str(b), "data.name": HOSTILE.replace("/", "")},
                  [Trial(s, lr=0.1, targets={0.03: 100 + b},
                         metadata={"reason": HOSTILE, "host": HOSTILE, "status": "DIVERGED",
                                   "versions": {HOSTILE: HOSTILE}, "arithmetic": {HOSTILE: HOSTILE}}
                         if s == 2 else {}) for s in (1, 2)]
                  + [Trial(101, "tune", lr=lr) for lr in (0.1, 0.2)],
                  tuning({0.1: 0.9, 0.2: 0.8}, 0.1, "low", criterion=HOSTILE))
             for b in (16, 32, 64)]
    experiment = Experiment(HOSTILE_NAME, cells, options={"model.init": HOSTILE},
                            title=HOSTILE, tune_lr=[0.1, 0.2],
                            dropped=[{"cell": HOSTILE, "reason": HOSTILE}])
    cells[0].planned = 9
    folder = write_study(tmp_path_factory.mktemp("hostile") / "study", [experiment],
                         title=HOSTILE, command=HOSTILE, device=HOSTILE, hosts=[HOSTILE],
                         versions={HOSTILE: HOSTILE}, data={HOSTILE: {HOSTILE: HOSTILE}})
    verdict = Verdict("C1", HOSTILE, HOSTILE, "supported", HOSTILE, 0.0, 1.0, HOSTILE, 3,
                      HOSTILE, "fig-steps", [HOSTILE], HOSTILE)
    return page.write(load([folder]), [verdict], folder / "report")


def test_a_hostile_text_stays_text(browser, hostile):
    opened = Opened(browser, hostile, 1280)
    assert opened.faults == []
    assert opened.tab.locator("h1").inner_text() == HOSTILE
    assert opened.tab.title() == HOSTILE
    told = opened.tab.locator("header").inner_text()
    assert f"did not all run with the same versions and arithmetic: {HOSTILE}" in told
    assert opened.tab.locator("img").count() == 0
    assert opened.tab.evaluate("document.scripts.length") == 2 + opened.tab.locator(".plot").count()
    axis = opened.tab.locator("[data-spec='fig-tuning-1'] .ytitle").text_content()
    assert HOSTILE in axis, "also where plotly reads HTML"
    assert opened.tab.locator(".plot svg a").count() == 0
    facet = opened.tab.locator("[data-spec='fig-steps-1']").get_attribute("aria-label")
    assert HOSTILE.replace("/", "") in facet


def test_a_hostile_name_of_an_experiment_stays_text(browser, hostile):
    """In headings of plots and of settings, in tables, and in the CSV file."""
    opened = Opened(browser, hostile, 1280)
    assert opened.faults == [], "no dialog, no script that the policy had to stop"
    tab = opened.tab
    headings = tab.locator("figcaption h4").all_inner_texts()
    assert len(headings) > 2 and all(text.startswith(HOSTILE_NAME) for text in headings)
    for place in ("#missing + .scroll td", "#diverged + .scroll td"):
        assert tab.locator(place).first.inner_text() == HOSTILE_NAME
    summaries = tab.locator("summary").all_inner_texts()
    assert any(text.startswith(HOSTILE_NAME) for text in summaries)
    assert "<script>alert(1)" not in hostile.read_text(encoding="utf-8")
    assert HOSTILE_NAME in (hostile.parent / "figures/fig-steps.csv").read_text().replace('""', '"')


def test_no_text_ends_the_script_that_it_stands_in(path):
    specs = re.findall(r'<script type="application/json" id="[a-z0-9-]+">(.*?)</script>',
                       path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(specs) > 30
    for spec in specs:
        assert not set("<>") & set(spec)
        assert "<extra></extra>" in json.dumps(json.loads(spec)), "it is escaped, not left out"


def test_the_page_names_no_other_place(path):
    """No address is loaded; those in plotly's own text are never followed."""
    text = path.read_text(encoding="utf-8")
    own = html.unescape(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert not re.search(r"https?://", own)
    assert "default-src 'none'" in own and "unsafe-eval" not in own


def test_data_of_figures_that_are_no_more_are_removed(tmp_path):
    folder = write_study(tmp_path / "study", [Experiment("one", [Cell({}, [Trial(1)])])])
    (folder / "report" / "figures").mkdir(parents=True)
    for name in ("fig-steps.csv", "mine.csv"):
        (folder / "report" / "figures" / name).write_text("x,y\n")
    page.write(load([folder]), [], folder / "report")
    assert [path.name for path in (folder / "report" / "figures").iterdir()] == ["mine.csv"]


def test_a_part_of_a_study_has_a_page(browser, tmp_path):
    experiment = Experiment("later", [Cell({"train.batch": "16"}, [], planned=4)])
    folder = write_study(tmp_path / "study", [experiment])
    opened = Opened(browser, page.write(load([folder]), [], folder / "report"), 800)
    assert opened.faults == [] and opened.tab.locator(".plot").count() == 0
    assert "4 planned trials are missing" in opened.tab.locator("header").inner_text()
    assert "wait" not in opened.tab.locator("header").inner_text()
    listed = opened.tab.locator("#not-in-study + ul li")
    assert listed.count() == len(ORDER)
    assert "it needs a target reached, at three or more batch sizes" in listed.first.inner_text()


def test_trials_that_wait_for_ranks_are_not_missing(browser, tmp_path):
    cell = Cell({"study.ranks": "4"}, [], planned=3, ranks=4)
    folder = write_study(tmp_path / "study", [Experiment("cost_ranks", [cell])])
    opened = Opened(browser, page.write(load([folder]), [], folder / "report"), 800)
    header = opened.tab.locator("header").inner_text()
    assert "3 planned trials wait for more ranks" in header and "missing" not in header
    assert "extend grids" not in header
    assert "mpirun -n 4" in opened.tab.locator("#missing + .scroll").inner_text()
