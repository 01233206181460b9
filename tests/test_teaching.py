"""The lessons: gaps and their checks, notebooks against sources, numbers against estimates.json, the deck's XML."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import zipfile

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from gaps import trials
from lxml import etree
from pptx import Presentation
from pptx.util import Emu

from fastlmm_vi import datasets
from teaching import check, grade
from teaching import deck as decks
from teaching.build import HERE, Folder, build
from teaching.build import deck as make_deck
from teaching.execute import execute
from teaching.layout import BODY as FRAME
from teaching.layout import SMALLEST, LayoutError, picture_sizes, place
from teaching.lesson import Lesson, LessonError, fill, lessons
from teaching.slides import PARTS, Equations, slides

COMMITTED = Folder(HERE)
LESSONS = lessons()
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+\.\d+(?:e[-+]?\d+)?(?![\w])")
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)

A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
A14 = "{http://schemas.microsoft.com/office/drawing/2010/main}"


@pytest.fixture(scope="module")
def numbers():
    return json.loads(COMMITTED.estimates.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages(numbers):
    return slides(LESSONS, numbers)


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    """Lessons run in this process: no windows, and what they set in matplotlib does not outlive them."""
    matplotlib.use("agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: plt.close("all"))
    with matplotlib.rc_context():
        yield


def on_data(lesson):
    return any(re.search(r"^DATA = None", cell.source, re.MULTILINE) for cell in lesson.cells)


def printed(cell):
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


# Gaps


@pytest.mark.filterwarnings("default")  # students' wrong lines may divide by zero before they are caught
@each_lesson
def test_every_wrong_filling_is_caught(lesson, capsys):
    found = list(trials(lesson))
    assert {trial.gap for trial in found} == set(lesson.gaps)
    for trial in found:
        expected = NotImplementedError if trial.why == "left blank" else AssertionError
        assert isinstance(trial.raised, expected), f"gap {trial.gap}, {trial.why}: {trial.raised!r}"
        assert trial.gap in str(trial.raised), f"the check of gap {trial.gap} does not name it: {trial.raised}"
        assert len(str(trial.raised)) > len(trial.gap) + 15 or trial.why == "left blank", "no hint"


@each_lesson
def test_formula_gaps_have_code_gaps(lesson):
    text = "\n".join(cell.source for cell in lesson.cells if cell.kind == "markdown" and "slide" not in cell.options)
    in_formulas = set(re.findall(r"⟦([\w.]+):", text))
    assert in_formulas <= set(lesson.gaps)
    assert in_formulas, "no gap in the derivation"
    assert any(".E" in name for name in lesson.gaps), "no exercise"


@each_lesson
def test_student_notebook_hides_every_solution(lesson, numbers):
    student = lesson.notebook(student=True, numbers=numbers)
    text = "\n".join(cell.source for cell in student.cells)
    assert "⟦" not in text
    assert "### " not in "\n".join(cell.source for cell in student.cells if cell.cell_type == "code")
    for gap in lesson.gaps.values():
        assert f'NotImplementedError("gap {gap.name} is still open' in text
        assert gap.solution not in text


@each_lesson
def test_functions_named_in_the_text_exist(lesson):
    text = "\n".join(cell.source for cell in lesson.cells if cell.kind == "markdown")
    for path in re.findall(r"`(fastlmm_vi(?:_kernels)?\.[\w.]+)", text):
        assert resolves(path), f"there is no {path}"


def resolves(path):
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return part in getattr(found, "__dataclass_fields__", {})
            found = getattr(found, part)
        return True
    return False


# Notebooks as committed


@each_lesson
def test_committed_notebooks_are_of_these_sources(lesson, numbers):
    for student, path in zip((False, True), COMMITTED.notebooks(lesson), strict=True):
        committed, wanted = nbformat.read(path, as_version=4), lesson.notebook(student=student, numbers=numbers)
        nbformat.validate(committed)
        assert [cell.source for cell in committed.cells] == [cell.source for cell in wanted.cells], "build, then commit"
        assert [cell.id for cell in committed.cells] == [cell.id for cell in wanted.cells]


@each_lesson
def test_solutions_are_executed_without_errors_and_warnings(lesson):
    solution = nbformat.read(COMMITTED.notebooks(lesson)[0], as_version=4)
    code = [cell for cell in solution.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    for cell in code:
        if "figure" in cell.metadata.get("fastlmm_vi", {}):
            assert [sorted(output.data) for output in cell.outputs] == [["image/png", "text/plain"]]


def known(numbers):
    """Every number of estimates.json, flat."""
    if isinstance(numbers, dict):
        return [x for value in numbers.values() for x in known(value)]
    if isinstance(numbers, list):
        return [x for value in numbers for x in known(value)]
    return [float(numbers)] if isinstance(numbers, (int, float)) and not isinstance(numbers, bool) else []


def unfounded(text, numbers):
    """The decimal numbers in `text` that are no entry of estimates.json, rounded as printed; shares may be percent."""
    everything = np.array(known(numbers))
    missing = []
    for token in NUMBER.findall(text.replace("−", "-")):
        mantissa, _, exponent = token.partition("e")
        unit = 0.5000001 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        values = np.concatenate([everything, 100.0 * everything])
        if not (np.abs(values - float(token)) <= unit).any():
            missing.append(token)
    return missing


@each_lesson
def test_numbers_about_the_data_are_in_estimates(lesson, numbers):
    if not on_data(lesson):
        return
    solution = nbformat.read(COMMITTED.notebooks(lesson)[0], as_version=4)
    for cell in solution.cells:
        options = cell.metadata.get("fastlmm_vi", {})
        if cell.cell_type == "code" and not options.get("timing") and "check" not in options:
            assert not printed(cell) or options.get("data"), f"{cell.id} prints, but is not marked data=true"
            assert unfounded(printed(cell), numbers) == [], cell.id
    for cell in lesson.cells:
        if cell.kind == "markdown":
            text = re.sub(r"`[^`]*`", "", cell.source)  # code may be quoted
            allowed = {name for each in LESSONS for name in each.gaps} | {"1.96"}  # the normal's 97.5 % quantile
            typed = set(NUMBER.findall(text)) - allowed
            assert typed == set(), f"a number typed by hand in {cell.source[:60]!r}"


def test_numbers_on_slides_are_in_estimates(pages, numbers):
    shown = check.deck_pages(COMMITTED.deck)
    assert sum(len(NUMBER.findall(page["text"])) for page in shown) > 20
    for page in shown:
        assert unfounded(page["text"] + "\n" + page["notes"], numbers) == [], page["text"]
    for lesson in LESSONS:
        for cell in lesson.slides():
            assert NUMBER.findall(cell.source) == [], f"{lesson.name}: a number typed by hand on {cell.source[:50]!r}"


def test_unfounded_numbers_are_found():
    numbers = {"a": [0.30237, {"b": -1352.2633}]}
    assert unfounded("0.302 and −1352.26, 30.2 %", numbers) == []
    assert unfounded("0.303 and −1352.27", numbers) == ["0.303", "-1352.27"]


# The check


@pytest.fixture
def copied(tmp_path):
    folder = Folder(tmp_path / "teaching")
    shutil.copytree(COMMITTED.root / "notebooks", folder.root / "notebooks")
    shutil.copytree(COMMITTED.slides, folder.slides)
    shutil.copy(COMMITTED.estimates, folder.estimates)
    return folder


def edit(path, change):
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def test_check_finds_nothing_in_a_copy(copied):
    assert list(check.differences(copied, COMMITTED)) == []


def spoil_number(folder):
    edit(folder.estimates, lambda text: re.sub(r'"sigma2_beta": (\d)', r'"sigma2_beta": 9\1', text, count=1))
    return "estimates.json"


def spoil_source(folder):
    path = folder.notebooks(LESSONS[0])[1]
    edit(path, lambda text: text.replace("import numpy as np", "import numpy as number", 1))
    return "student/01"


def spoil_output(folder):
    path = folder.notebooks(LESSONS[2])[0]
    edit(path, lambda text: text.replace("log-likelihood -8", "log-likelihood -7", 1))
    return "solution/03"


def spoil_table(folder):
    next(iter(sorted(folder.figures.glob("*/*.csv")))).unlink()
    return "slides/figures"


def spoil_slide(folder):
    deck = Presentation(folder.deck)
    deck.slides[1].shapes.title.text = "Another message"
    deck.save(folder.deck)
    return "slide 2"


def spoil_notes(folder):
    deck = Presentation(folder.deck)
    deck.slides[4].notes_slide.notes_text_frame.text = "nothing to say"
    deck.save(folder.deck)
    return "slide 5"


@pytest.mark.parametrize("spoil", [spoil_number, spoil_source, spoil_output, spoil_table, spoil_slide, spoil_notes])
def test_check_finds_what_was_changed(copied, spoil):
    place = spoil(copied)
    found = list(check.differences(copied, COMMITTED))
    assert len(found) == 1
    assert place in found[0]


def test_check_ignores_seconds_and_rounding_only():
    assert check.same({"seconds": 1.0, "x": 1.0000001}, {"seconds": 2.0, "x": 1.0})
    assert not check.same({"x": 1.01}, {"x": 1.0})
    assert not check.same("σ²_β 0.302 after 6 sweeps", "σ²_β 0.302 after 7 sweeps")
    assert not check.same("gap 0.302", "gain 0.302")


# The deck


def xml(name):
    with zipfile.ZipFile(COMMITTED.deck) as archive:
        return etree.fromstring(archive.read(name))


def slide_names():
    with zipfile.ZipFile(COMMITTED.deck) as archive:
        names = [n for n in archive.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", n)]
    return sorted(names, key=lambda n: int(re.sub(r"\D", "", n)))


def test_deck_has_the_slides_of_the_lessons_in_order(pages):
    deck = Presentation(COMMITTED.deck)
    assert [slide.shapes.title.text for slide in deck.slides] == [page.title for page in pages]
    assert 28 <= len(pages) <= 38
    assert {page.part for page in pages} == set(PARTS)
    assert (Emu(deck.slide_width).inches, Emu(deck.slide_height).inches) == pytest.approx((13.333, 7.5))


def test_every_slide_has_notes(pages):
    for slide, page in zip(Presentation(COMMITTED.deck).slides, pages, strict=True):
        text = slide.notes_slide.notes_text_frame.text
        for part in ("Say: ", "Ask: ", "Answer: ", "Minutes: "):
            assert part in text
        assert f"Lesson {page.lesson.number}" in text
        assert all(entry in text for entry in page.entries)
        assert not slide.notes_slide.element.findall(f".//{M}oMath")


@pytest.mark.parametrize("name", slide_names())
def test_everything_shown_has_alt_text(name):
    tree = xml(name)
    shown = [*tree.iter(f"{P}pic"), *tree.iter(f"{P}graphicFrame")]
    shown += [shape for shape in tree.iter(f"{P}sp") if shape.findall(f".//{M}oMath")]
    for shape in shown:
        assert len(shape.find(f".//{P}cNvPr").get("descr", "")) >= 2


@pytest.mark.parametrize("name", slide_names())
def test_formulas_stand_alone_and_have_a_picture_to_fall_back_on(name):
    tree = xml(name)
    maths = list(tree.iter(f"{M}oMathPara"))
    for math in maths:
        holder = math.getparent()
        assert holder.tag == f"{A14}m"
        box = next(math.iterancestors(f"{P}sp"))
        assert box.find(f".//{P}ph") is None
        assert not box.findall(f".//{A}t") or all(
            next(t.iterancestors(f"{M}r"), None) is not None for t in box.iter(f"{A}t")
        )
        choice = box.getparent()
        assert choice.tag == f"{MC}Choice"
        picture = choice.getparent().find(f"{MC}Fallback/{P}pic")
        assert picture.find(f".//{P}cNvPr").get("descr") == box.find(f".//{P}cNvPr").get("descr")
        assert len(math.findall(f".//{M}r")) > 0
        assert {run.find(f"{A}rPr").find(f"{A}latin").get("typeface") for run in math.iter(f"{M}r")} == {"Cambria Math"}
    assert not [m for t in tree.iter(f"{A}tbl") for m in t.iter(f"{M}oMath")]


def test_as_many_formulas_as_the_lessons_have(pages):
    wanted = [f for page in pages for e in page.elements if isinstance(e, Equations) for f in e.formulas]
    found = [math for name in slide_names() for math in xml(name).iter(f"{M}oMathPara")]
    assert len(found) == len(wanted) > 30


@pytest.mark.parametrize("name", slide_names())
def test_no_text_below_18_points(name):
    tree = xml(name)
    sizes = [int(look.get("sz")) for look in tree.iter(f"{A}rPr", f"{A}endParaRPr") if look.get("sz")]
    assert min(sizes, default=SMALLEST * 100) >= SMALLEST * 100
    runs = [run for run in tree.iter(f"{A}r") if next(run.iterancestors(f"{P}sp"), None) is not None]
    for run in runs:
        in_placeholder = next(run.iterancestors(f"{P}sp")).find(f".//{P}ph") is not None
        assert in_placeholder or run.find(f"{A}rPr").get("sz"), "text of the default size"


def test_charts_are_native_with_their_numbers(pages):
    with zipfile.ZipFile(COMMITTED.deck) as archive:
        charts = [n for n in archive.namelist() if re.fullmatch(r"ppt/charts/chart\d+\.xml", n)]
        books = [n for n in archive.namelist() if n.startswith("ppt/embeddings/")]
        trees = [etree.fromstring(archive.read(n)) for n in charts]
    wanted = [e for page in pages for e in page.elements if getattr(e, "kind", None) == "chart"]
    assert len(charts) == len(books) == len(wanted) >= 2
    for tree in trees:
        sizes = [int(look.get("sz")) for look in tree.iter(f"{A}defRPr", f"{A}rPr") if look.get("sz")]
        assert min(sizes) >= SMALLEST * 100
        assert all(len(list(series.iter(f"{C}pt"))) > 4 for series in tree.iter(f"{C}ser"))


def rectangles(slide):
    """Name and box of every shape that shows something, in inches, formulas included."""
    tree = slide.shapes._spTree
    shapes = [
        s
        for s in tree.iter(f"{P}sp", f"{P}pic", f"{P}graphicFrame")
        if next(s.iterancestors(f"{MC}Fallback"), None) is None
    ]
    for shape in shapes:
        frame = next((x for x in shape.iter(f"{A}xfrm", f"{P}xfrm")), None)
        if frame is None:
            continue
        off, ext = frame.find(f"{A}off"), frame.find(f"{A}ext")
        x, y, w, h = (int(v) / 914400 for v in (off.get("x"), off.get("y"), ext.get("cx"), ext.get("cy")))
        yield shape.find(f".//{P}cNvPr").get("name"), (x, y, x + w, y + h)


def test_nothing_overlaps_or_leaves_the_slide():
    for slide in Presentation(COMMITTED.deck).slides:
        boxes = list(rectangles(slide))
        for k, (name, (x0, y0, x1, y1)) in enumerate(boxes):
            assert -0.01 <= x0 < x1 <= 13.34, (slide.shapes.title.text, name)
            assert -0.01 <= y0 < y1 <= 7.51, (slide.shapes.title.text, name)
            for other, (u0, v0, u1, v1) in boxes[:k]:
                apart = x1 <= u0 + 0.01 or u1 <= x0 + 0.01 or y1 <= v0 + 0.01 or v1 <= y0 + 0.01
                assert apart, (slide.shapes.title.text, name, other)


def test_each_picture_has_its_source_data(pages):
    for lesson, figure in picture_sizes(pages):
        assert (COMMITTED.figures / lesson / f"{figure}.png").exists()
        assert (COMMITTED.figures / lesson / f"{figure}.csv").exists()


def template(path, *, wide):
    deck = Presentation()
    if wide:
        deck = decks._wide_default()
    deck.slide_master.name = "Lecture"
    deck.slides.add_slide(deck.slide_layouts[0]).shapes.title.text = "a slide of the template's own"
    deck.save(path)
    return path


def as_potx(path):
    """The same file under a template's content type."""
    out = path.with_suffix(".potx")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            part = source.read(name)
            target.writestr(
                name, part.replace(b"presentation.main+xml", b"template.main+xml") if "Types" in name else part
            )
    return out


@pytest.mark.filterwarnings("ignore:Slide .* has text below 18 points")
@pytest.mark.parametrize("kind", ["16:9 pptx", "4:3 pptx", "potx"])
def test_deck_on_a_lecturers_template(copied, tmp_path, pages, kind):
    path = template(tmp_path / "own.pptx", wide=kind != "4:3 pptx")
    path = as_potx(path) if kind == "potx" else path
    assert make_deck(copied, template=path)
    deck = Presentation(copied.deck_on(path))
    assert [slide.shapes.title.text for slide in deck.slides] == [page.title for page in pages]
    assert deck.slide_master.name == "Lecture"


def test_built_deck_is_not_made_again(copied):
    assert make_deck(copied)
    assert not make_deck(copied)


# Sources that are wrong


def source(tmp_path, text):
    path = tmp_path / "07_wrong.py"
    path.write_text(text, encoding="utf-8")
    return Lesson(path)


GAP = '# %% gap="7.1"\nx = 1\n### SOLUTION\ny = 1\n### WRONG sign\ny = -1\n### END\n\n'
CHECK = '# %% check="7.1"\nassert y == 1, "gap 7.1: positive"\n'
HEADER = '# %% [markdown] slide="model"\n# # Title\n#\n'
SLIDE = HEADER + "# {}\n#\n# ---\n# Say: a\n#\n# Ask: b\n#\n# Answer: c\n#\n# Minutes: 1\n"


def test_gap_is_cut_out(tmp_path):
    gap = source(tmp_path, GAP + CHECK).gaps["7.1"]
    assert gap.solution == "x = 1\ny = 1"
    assert gap.blank.splitlines()[0] == "x = 1"
    assert gap.wrong == {"sign": "x = 1\ny = -1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GAP, "not followed by its check"),
        (CHECK + GAP, "not followed by its check"),
        (GAP.replace("### WRONG sign\ny = -1\n", "") + CHECK, "no ### WRONG filling"),
        (GAP.replace("### SOLUTION", "# solution") + CHECK, "needs one ### SOLUTION"),
    ],
)
def test_wrong_gaps_are_errors(tmp_path, text, message):
    with pytest.raises(LessonError, match=message):
        _ = source(tmp_path, text).gaps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SLIDE.replace('"model"', '"prologue"').format("text"), "its part 'prologue' is none of"),
        (SLIDE.format("text").replace("Minutes: 1", ""), "the notes lack Minutes"),
        (SLIDE.format("text").replace("# # Title", "# Title"), "first line must be"),
        (SLIDE.format("$$ a $$ and $$ b $$"), "an equation is one line"),
        (SLIDE.format("![no kind](ridge)"), "cannot read"),
        (SLIDE.format("«fits.none»"), "no entry fits.none"),
    ],
)
def test_wrong_slides_are_errors(tmp_path, text, message):
    with pytest.raises(LessonError, match=message):
        slides((source(tmp_path, text),), {"fits": {}})


@pytest.mark.parametrize("text", ["word " * 400, r"$$ " + r"\frac{a}{b}+" * 60 + "c $$"], ids=["text", "formula"])
def test_a_slide_that_holds_too_much_is_an_error(tmp_path, text):
    (slide,) = slides((source(tmp_path, SLIDE.format(text)),), {})
    with pytest.raises(LayoutError, match="Title"):
        place(slide, FRAME)


def test_placeholders_are_filled():
    numbers = {"fits": {"em": {"loglik": -1.25, "path": [{"n": 3}]}}}
    assert fill("«fits.em.loglik:.1f» «fits.em.path.0.n»", numbers, "here") == "−1.2 3"


# Grading


def test_grading_counts_gaps_that_pass(tmp_path, monkeypatch):
    lesson = LESSONS[2]
    ada = nbformat.read(COMMITTED.notebooks(lesson)[1], as_version=4)
    fill_gaps(ada, lesson)
    by_name = {cell.metadata.get("fastlmm_vi", {}).get("gap"): cell for cell in ada.cells}
    by_name["3.1"].source = next(iter(lesson.gaps["3.1"].wrong.values()))
    by_name["3.2"].source = lesson.gaps["3.2"].blank
    by_name["3.3"].source += "\n    return mu,"
    by_name["3.4"].source = "def em_step_rotated(*arguments):\n    while True:\n        pass"
    for cell in ada.cells:
        if "check" in cell.metadata.get("fastlmm_vi", {}):
            cell.source = "print('gap ✓')"  # the lesson's own checks count
    stripped = nbformat.read(COMMITTED.notebooks(lesson)[1], as_version=4)
    fill_gaps(stripped, lesson)
    for cell in stripped.cells:
        cell.metadata.clear()
    nbformat.write(ada, tmp_path / "ada.ipynb")
    nbformat.write(stripped, tmp_path / "stripped.ipynb")
    (tmp_path / "none.ipynb").write_text("not json")
    monkeypatch.setattr(grade, "TIMEOUT", 5)
    files = [tmp_path / f"{name}.ipynb" for name in ("ada", "none", "missing", "stripped")]
    first, none, missing, second = grade.grade(files).to_dict("records")
    assert (first["lesson"], first["passed"], first["gaps"]) == ("03_em", 3, 6)
    assert "3.1: gap 3.1: log p(y, β) still has a slope" in first["not passed"]
    assert "3.2: empty" in first["not passed"]
    assert "3.4: stopped after 5 s" in first["not passed"]
    assert second["passed"] == second["gaps"] == 6
    assert "not graded" in none["not passed"]
    assert "not graded" in missing["not passed"]


def fill_gaps(notebook, lesson):
    for cell in notebook.cells:
        options = cell.metadata.get("fastlmm_vi", {})
        if "gap" in options:
            cell.source = lesson.gaps[options["gap"]].solution


# The command line


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "fastlmm_vi", "teach", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_list_names_every_lesson():
    result = run("list")
    assert result.returncode == 0
    for lesson in LESSONS:
        assert f"{lesson.number}  {lesson.title}" in result.stdout


def test_readme_lists_every_lesson():
    text = (HERE / "README.md").read_text(encoding="utf-8")
    for lesson in LESSONS:
        minutes = re.search(r"Time: (\d+) minutes", lesson.cells[0].source)[1]
        assert re.search(rf"\({re.escape(f'notebooks/solution/{lesson.name}.ipynb')}\).*\| {minutes} \|", text), (
            lesson.name
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--data", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (["build", "--only", "99"], "There is no lesson 99"),
        (["build", "--check", "--only", "03"], "without other options"),
        (["deck", "--template", "nowhere.potx"], "there is no such template"),
        (["deck", "--out", "nowhere"], "run `fastlmm-vi teach build` first"),
    ],
)
def test_command_line_says_what_is_wrong(tmp_path, arguments, message):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_repository_it_says_so(monkeypatch):
    from fastlmm_vi import teach
    from fastlmm_vi.errors import DataError

    monkeypatch.setitem(sys.modules, "teaching.lesson", None)
    with pytest.raises(DataError, match="come with the repository"):
        teach._machinery("lesson")


@pytest.mark.filterwarnings("ignore:Not converged")
@pytest.mark.filterwarnings("ignore:Boundary")
def test_lessons_refuse_data_with_nothing_to_show(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "flat.txt"
    datasets.write_xyz(path, rng.normal(size=60), rng.normal(size=(60, 2)), rng.normal(size=(60, 90)) * 1e-3)
    with pytest.raises(Exception, match=r"the lessons compare all fits|no interior maximum"):
        build(Folder(tmp_path / "out"), data=path)


# Everything executed (second stage)


@pytest.mark.slow
@each_lesson
def test_student_notebook_runs_with_the_solutions_filled_in(lesson):
    notebook = nbformat.read(COMMITTED.notebooks(lesson)[1], as_version=4)
    fill_gaps(notebook, lesson)
    seconds = execute(notebook)
    passed = "".join(printed(cell) for cell in notebook.cells)
    assert all(f"{name} ✓" in passed for name in lesson.gaps)
    assert seconds < 600  # a lesson takes less than 60 on a quiet machine; this only catches one that hangs


@pytest.mark.slow
def test_built_from_scratch_it_is_what_is_committed(tmp_path):
    built = Folder(tmp_path)
    assert build(built) == ["estimates", *(lesson.name for lesson in LESSONS), "slides"]
    assert list(check.differences(COMMITTED, built)) == []
    assert build(built) == []


@pytest.mark.slow
def test_rebuilt_on_other_data_every_number_follows(tmp_path, numbers):
    twin = datasets.make_xyz_twin(seed=1)
    path = datasets.write_xyz(tmp_path / "other.txt", twin.y, twin.Z, twin.X)
    built = Folder(tmp_path / "out")
    build(built, data=path)
    others = json.loads(built.estimates.read_text(encoding="utf-8"))
    assert others["fits"]["em"]["loglik"] != pytest.approx(numbers["fits"]["em"]["loglik"], rel=1e-3)
    for lesson in filter(on_data, LESSONS):
        solution = nbformat.read(built.notebooks(lesson)[0], as_version=4)
        text = "".join(cell.source for cell in solution.cells)
        assert "DATA = 'other.txt'" in text
        assert str(tmp_path) not in built.notebooks(lesson)[0].read_text(encoding="utf-8")
        for cell in solution.cells:
            if cell.metadata.get("fastlmm_vi", {}).get("data"):
                assert unfounded(printed(cell), others) == [], cell.id
    for page in check.deck_pages(built.deck):
        assert unfounded(page["text"], others) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed on this machine")
def test_libreoffice_keeps_every_formula(tmp_path, pages):
    profile = f"-env:UserInstallation=file://{tmp_path}/profile"
    subprocess.run(
        ["soffice", "--headless", profile, "--convert-to", "odp", "--outdir", tmp_path, COMMITTED.deck], check=True
    )
    with zipfile.ZipFile(tmp_path / "fastlmm_vi.odp") as archive:
        objects = [n for n in archive.namelist() if re.fullmatch(r"Object \d+/content\.xml", n)]
        contents = [archive.read(n) for n in objects]
    wanted = [f for page in pages for e in page.elements if isinstance(e, Equations) for f in e.formulas]
    maths = [content for content in contents if b"<math " in content]
    assert len(maths) == len(wanted)
    assert not [m for m in maths if "¿".encode() in m]
