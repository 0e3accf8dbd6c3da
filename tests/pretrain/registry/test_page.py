"""The page of all encoders, in a real browser: searchable, and as good on a phone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from exports import encoder_card

from pretrain.cards.entry_names import parse_name
from pretrain.registry.site.contents import PublishedEntry
from pretrain.registry.site.page import render_page
from pretrain.registry.site.scores import PROBE, TransferScore
from pretrain.registry.storage.entry import EntryFile, EntryManifest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>alert(1)</script>"
SCORE = TransferScore(
    probe=PROBE,
    label="steel-with-a-long-label",
    encoder_sha256="0" * 64,
    data_sha256="d" * 64,
    images=3,
    folds=3,
    miou=0.5,
    random_miou=0.25,
    iou={"a": 0.5, "b": None},
    scored="2026-01-02",
)


def entry(name: str, top1: float, *scores: TransferScore, **changes: object) -> PublishedEntry:
    parsed = parse_name(name)
    classes = (HOSTILE, "bainite_that_has_" + "a_long_name_" * 6)
    facts = {"classes": classes, "class_accuracy": (0.25, None), "metrics": {"top1": top1}}
    files = {"encoder.safetensors": EntryFile(45_000_000, "0" * 64)}
    manifest = EntryManifest(1, parsed.folder, "2026-01-02T03:04:05+00:00", files)
    card = encoder_card(parsed.arch, **(facts | changes))
    return PublishedEntry(parsed, manifest, "d" * 64, card, scores)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    found = [
        entry("vgg11.micronet@1", 0.0137, converged=False),
        entry("resnet50.micronet@2", 0.62, SCORE),
        entry("efficientnet-b4.image-micronet@1", 0.945, init="imagenet"),
    ]
    path = tmp_path / "encoders.html"
    path.write_text(render_page(found, "s3://lab/encoders"), encoding="utf-8")
    return path


def browse(url: str) -> str:
    """The page's elements after its script has run."""
    if BROWSER is None:
        pytest.skip("needs chromium")
    flags = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --dump-dom"
    result = subprocess.run([BROWSER, *flags.split(), url], capture_output=True, timeout=120)
    return result.stdout.decode()


def test_nothing_comes_from_elsewhere_and_the_best_stands_first(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text and "&lt;script&gt;alert(1)" in text
    assert not re.findall(r"(?:src|href|url)\s*[=(]", text)
    names = re.findall(r'<details id="([^"]+)"', text)
    assert names == ["efficientnet-b4.image-micronet@1", "resnet50.micronet@2", "vgg11.micronet@1"]
    assert "did not converge" in text.split('id="vgg11')[1]


def first_by_score(text: str, page: Path) -> str:
    """The first entry when the page's best-on-these-images order is chosen."""
    (choice,) = re.findall(r'<option value="(score0)">best on steel-with-a-long-label dddd', text)
    pick = f'order.value = "{choice}"; order.dispatchEvent(new Event("change"));</script>'
    page.write_text(text.replace("</script>", pick), encoding="utf-8")
    return str(re.findall(r'<details id="([^"]+)"', browse(page.as_uri()))[0])


def test_the_page_can_be_sorted_by_score(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert first_by_score(text, page) == "resnet50.micronet@2"
    # An entry without, such as a segmenter, between two encoders in the order before:
    head, first, middle, last = text.split("<details ")
    middle = re.sub('data-score0="[^"]*"', "", middle)
    last = re.sub('data-score0="[^"]*"', 'data-score0="0.7"', last)
    text = "<details ".join([head, first, middle, last])
    assert first_by_score(text, page) == "vgg11.micronet@1"


def test_a_search_leaves_what_it_found(page: Path) -> None:
    elements = browse(f"{page.as_uri()}?q=steels+IMAGE-micronet#efficientnet-b4.image-micronet@1")
    assert "<output>1 of 3</output>" in elements
    shown = re.findall(r'<details id="([^"]+)"[^>]*?( hidden="")?( open="")?>', elements)
    assert [(name, hidden != "", opened != "") for name, hidden, opened in shown] == [
        ("efficientnet-b4.image-micronet@1", False, True),
        ("resnet50.micronet@2", True, False),
        ("vgg11.micronet@1", True, False),
    ]


def framed(page: Path, width: int, measure: str) -> str:
    """What `measure`, of the page's `document` as `page`, is where the screen has this width."""
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<iframe src="{page.name}" style="width:{width}px;height:800px;border:0"></iframe>'
        "<p>?</p><script>onload = () => { const page = frames[0].document;"
        f'document.querySelector("p").textContent = {measure} }}</script>'
    )
    (measured,) = re.findall(r"<p>([^<]*)</p>", browse(frame.as_uri()))
    return str(measured)


@pytest.mark.parametrize(("width", "seen"), [(390, True), (768, True), (1280, False)])
def test_a_figure_says_what_it_is_where_no_heads_are(width: int, seen: bool, page: Path) -> None:
    shown = framed(
        page,
        width,
        'getComputedStyle(page.querySelector(".head")).display + " " + [...page.querySelector('
        '"#resnet50\\\\.micronet\\\\@2 summary").querySelectorAll("small")].filter(label => '
        'getComputedStyle(label).clipPath == "none").map(label => label.textContent).join("")',
    )
    labels = "top-1 mIoU, steel-with-a-long-label dddd parameters file began from "
    assert shown == (f"none {labels}" if seen else "grid ")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_is_no_wider_than_the_screen(width: int, page: Path) -> None:
    opened = page.with_name("opened.html")
    opened.write_text(page.read_text(encoding="utf-8").replace("<details ", "<details open "))
    measure = 'page.documentElement.scrollWidth + " " + page.documentElement.clientWidth'
    measured = framed(opened, width, measure).split()
    assert measured[0] == measured[1]
    assert 0 <= width - int(measured[1]) < 30  # what a scroll bar takes
