"""All entries of a registry on one self-contained, searchable HTML page.

Whatever comes from a card goes through `text`: others wrote it. Imports no torch.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from pretrain.archs import find_arch
from pretrain.card import Card
from pretrain.registry.contents import (
    Found,
    encoders,
    remarks,
    scored_data,
    segmenters,
    training_side,
)
from pretrain.registry.origin import licences_of, list_of, recipe_of, short_init
from pretrain.registry.readme import snippets
from pretrain.registry.scores import ScoredData, spell_data, spell_score
from pretrain.segmenter_card import SegmenterCard
from shards.tables import printable

_HERE = Path(__file__).parent
_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>$title</h1>
<p>Registry $registry. $explained</p>
<div class="tools">
<input type="search" placeholder="name, class, source, licence …" aria-label="Search">
<select aria-label="Order">
<option value="top1">best first</option>
$orders<option value="mb">smallest first</option>
<option value="name">by name</option>
</select>
<output></output>
</div>
<main>
$lists
</main>
<script>
$script</script>
</body>
</html>
""")


_TOP1 = """Top-1 is on each encoder's own validation images: compare it only between encoders of
one corpus."""
_SCORED = """mIoU is that of a linear classifier on the frozen encoder, fitted to a few labelled
images: compare it between encoders scored on the same ones."""
_MICRO_IOU = """Micro IoU is on each segmenter's own validation images: compare it only between
those of the same ones."""
_SEGMENTER_HEADS = ("segmenter", "micro IoU", "classes", "file", "began from")
_NO_SHARES = ("epoch", "loss")
_TITLES = ("Encoders pre-trained on micrographs", "Encoders and segmenters of micrographs")
_LIST = Template("""\
<section>
<div class="row head" aria-hidden="true">$heads</div>
$items
</section>""")


def render_page(found: Sequence[Found], registry: str) -> str:
    """The page; encoders before segmenters, those that did not converge last."""
    data = scored_data(found)
    of_encoders = [_item(entry, card, data) for entry, card in encoders(found)]
    of_segmenters = [_segmenter_item(entry, card) for entry, card in segmenters(found)]
    lists, explained = [], []
    if of_encoders or not of_segmenters:
        lists.append(_list(_heads(data), of_encoders))
        explained += [_TOP1, *([_SCORED] if data else [])]
    if of_segmenters:
        lists.append(_list(_SEGMENTER_HEADS, of_segmenters))
        explained.append(_MICRO_IOU)
    return _PAGE.substitute(
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        title=_TITLES[bool(of_segmenters)],
        registry=text(registry),
        explained=" ".join(explained),
        lists="\n".join(lists),
        orders="".join(
            f'<option value="score{number}">best on {text(spell_data(each))} first</option>\n'
            for number, each in enumerate(data)
        ),
    )


def _list(heads: Sequence[str], items: Sequence[str]) -> str:
    spans = "".join(f"<span>{name}</span>" for name in heads)
    return _LIST.substitute(heads=spans, items="\n".join(items))


def _heads(data: Sequence[ScoredData]) -> list[str]:
    """Of the columns: the first data that entries were scored on has one, the rest is inside."""
    scored = [f"mIoU, {text(spell_data(at))}" for at in data[:1]]
    return ["encoder", "top-1", *scored, "parameters", "file", "began from"]


def _item(entry: Found, card: Card, data: Sequence[ScoredData]) -> str:
    top1 = card.metrics.get("top1")
    by_data = {score.data: score.miou for score in entry.scores}
    shown = "".join(
        _cell(f"mIoU, {spell_data(at)}", _percent(by_data.get(at)), "right score")
        for at in data[:1]
    )
    scores = " ".join(f'data-score{n}="{by_data.get(at, -1):.5f}"' for n, at in enumerate(data))
    columns = f"{shown}{_cell('parameters', _params(card), 'right soft')}"
    return _details(entry, _share(top1, "top-1"), scores, columns, _classes(card))


def _segmenter_item(entry: Found, card: SegmenterCard) -> str:
    share = _share(card.metrics.get("micro_iou"), "micro IoU")
    count = _cell("classes", str(len(card.classes)), "right soft")
    return _details(entry, share, "", count, "")


def _details(entry: Found, share: str, data: str, columns: str, below: str) -> str:
    """One entry: its line, and what opens below it."""
    card, megabytes = entry.card, entry.seal.weights.bytes / 1e6
    marks = [badge(mark) for mark in remarks(card)]
    words = [str(entry.name), card.arch, *card.classes, licences_of(card.sources)]
    words += [card.init, *(source.name for source in card.sources)]
    words += [card.timm_name] if isinstance(card, Card) else [card.decoder, entry.seal.kind]
    quality = card.metrics.get("top1" if isinstance(card, Card) else "micro_iou")
    sortable = -1.0 if quality is None or not card.converged else quality
    return f"""\
<details id="{text(entry.name)}" data-search="{text(" ".join(words).lower())}" \
data-top1="{sortable:.5f}" {data} data-mb="{megabytes:.3f}">
<summary class="row"><span class="name">{text(entry.name)} {" ".join(marks)}</span>
{share}{columns}{_cell("file", f"{megabytes:.0f} MB", "right soft")}\
{_cell("began from", short_init(card.init), "soft")}
</summary>
<div class="body"><div>
{_code(entry)}
</div><div>
<h2>What it is</h2>{_facts(_about(entry))}
{below}
</div></div>
</details>"""


def _cell(label: str, content: str, style: str) -> str:
    """A figure of an entry's line. Its label is heard always, and seen where there are no heads."""
    told = f"<small>{text(label)} </small>{text(content)}" if content else ""
    return f'<span class="{style}">{told}</span>'


def _code(entry: Found) -> str:
    code = snippets(entry.card, entry.name)
    pull = f"python -m pretrain.registry pull {entry.name}"
    headings = {"smp": "and load it in smp", "timm": "or in timm"}
    parts = {
        "Use it": code["here"],
        **({"or in Python": code["python"]} if "python" in code else {}),
        "Or get the folder": pull,
        **{heading: code[key] for key, heading in headings.items() if key in code},
    }
    return "\n".join(f"<h2>{name}</h2><pre>{_lines(part)}</pre>" for name, part in parts.items())


def _lines(content: str) -> str:
    """As `text`, line by line: it would show a line's end as a sign."""
    return "\n".join(text(line) for line in content.splitlines())


def _about(entry: Found) -> dict[str, str]:
    card = entry.card
    metrics = {k: v for k, v in card.metrics.items() if v is not None and k not in _NO_SHARES}
    corpus = ", ".join(source.name or "unnamed" for source in card.sources)
    return {
        **{key: f"{value:.1%}" for key, value in sorted(metrics.items())},
        **{f"mIoU, {spell_data(s.data)}": spell_score(s) for s in entry.scores},
        **(
            {"corpus": corpus, "classes": str(len(card.classes) or "not published")}
            if isinstance(card, Card)
            else {
                "network": f"{card.decoder} on {card.arch}",
                "classes": ", ".join(card.class_names),
                "images": corpus,
            }
        ),
        "licence": licences_of(card.sources),
        "restriction": "; ".join(s.restriction for s in card.sources if s.restriction),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe_of(card).items()),
        "note": str(card.config.get("note", "")),
        "input": f"{training_side(card)} px; mean {list_of(card.mean)}; std {list_of(card.std)}",
        "published": entry.seal.published[:10],
        "digest": entry.digest[:16],
    }


def _facts(facts: Mapping[str, str]) -> str:
    rows = (f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in facts.items() if value)
    return f"<dl>{''.join(rows)}</dl>"


def _classes(card: Card) -> str:
    if not card.class_accuracy:
        return ""
    pairs = sorted(
        zip(card.classes, card.class_accuracy, strict=True), key=lambda pair: pair[1] or 0.0
    )
    rows = "".join(f"<li><span>{text(name)}</span>{_share(share)}</li>" for name, share in pairs)
    return f"<h2>Recognised of each class</h2><ul>{rows}</ul>"


def _share(value: float | None, label: str = "") -> str:
    told = f"<small>{text(label)} </small>" if label and value is not None else ""
    bar = "" if value is None else f'<b style="width:{100 * value:.1f}%"></b>'
    return f'<span class="share">{told}<i>{bar}</i><span>{text(_percent(value))}</span></span>'


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _params(card: Card) -> str:
    params = find_arch(card.arch).params
    return "" if params is None else f"{params:.1f} M"


def text(value: object) -> str:
    """Anything as text of the page, also within quotes."""
    return html.escape(printable(value))


def badge(content: str, kind: str = "") -> str:
    return f'<span class="badge {kind}">{text(content)}</span>'
