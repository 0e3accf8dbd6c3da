"""All encoders of a registry on one self-contained, searchable HTML page.

Whatever comes from a card goes through `text`: others wrote it. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from pretrain.archs import find_arch
from pretrain.card import Card
from pretrain.registry.contents import Found, scored_data
from pretrain.registry.readme import licences_of, recipe_of, snippets
from pretrain.registry.scores import ScoredData, spell_data, spell_score
from shards.page import badge, text

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
<title>Encoders pre-trained on micrographs</title>
<style>
$style</style>
</head>
<body>
<h1>Encoders pre-trained on micrographs</h1>
<p>$registry. Top-1 is on each encoder's own validation images: compare it only between encoders of
one corpus.$scored</p>
<div class="tools">
<input type="search" placeholder="name, class, source, licence …" aria-label="Search">
<select aria-label="Order">
<option value="top1">best top-1 first</option>
$orders<option value="mb">smallest first</option>
<option value="name">by name</option>
</select>
<output></output>
</div>
<div class="row head" aria-hidden="true">$heads</div>
<main>
$items
</main>
<script>
$script</script>
</body>
</html>
""")


_SCORED = """ mIoU is that of a linear classifier on the frozen encoder, fitted to a few labelled
images: compare it between encoders scored on the same ones."""


def render_page(found: Sequence[Found], registry: str) -> str:
    """The page; those that did not converge stand last."""
    data = scored_data(found)
    ranked = sorted(found, key=lambda e: (not e.card.converged, -e.card.metrics.get("top1", 0.0)))
    return _PAGE.substitute(
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        registry=text(registry),
        items="\n".join(_item(entry, data) for entry in ranked),
        heads="".join(f"<span>{name}</span>" for name in _heads(data)),
        orders="".join(
            f'<option value="score{number}">best on {text(spell_data(each))} first</option>\n'
            for number, each in enumerate(data)
        ),
        scored=_SCORED if data else "",
    )


def _heads(data: Sequence[ScoredData]) -> list[str]:
    """Of the columns: the first data that entries were scored on has one, the rest is inside."""
    scored = [f"mIoU, {text(spell_data(at))}" for at in data[:1]]
    return ["encoder", "top-1", *scored, "parameters", "file", "began from"]


def _item(entry: Found, data: Sequence[ScoredData]) -> str:
    card, megabytes = entry.card, entry.seal.files["encoder.safetensors"].bytes / 1e6
    top1 = card.metrics.get("top1")
    marks = [] if card.converged else [badge("did not converge")]
    marks += [badge("restricted")] if any(source.restriction for source in card.sources) else []
    words = [str(entry.name), card.timm_name, *card.classes, licences_of(card.sources)]
    words += [card.init, *(source.name for source in card.sources)]
    sortable = -1.0 if top1 is None or not card.converged else top1
    by_data = {score.data: score.miou for score in entry.scores}
    shown = "".join(
        f'<span class="right score">{text(_percent(by_data.get(at)))}</span>' for at in data[:1]
    )
    scores = " ".join(f'data-score{n}="{by_data.get(at, -1):.5f}"' for n, at in enumerate(data))
    return f"""\
<details id="{text(entry.name)}" data-search="{text(" ".join(words).lower())}" \
data-top1="{sortable:.5f}" {scores} data-mb="{megabytes:.3f}">
<summary class="row"><span class="name">{text(entry.name)} {" ".join(marks)}</span>
{_share(top1)}{shown}<span class="right soft">{_params(card)}</span>\
<span class="right soft">{megabytes:.0f} MB</span><span class="soft">{text(card.init)}</span>
</summary>
<div class="body"><div>
{_code(card, entry)}
</div><div>
<h2>What it is</h2>{_facts(_about(entry))}
{_classes(card)}
</div></div>
</details>"""


def _code(card: Card, entry: Found) -> str:
    code = snippets(card, entry.name)
    pull = f"python -m pretrain.registry pull {entry.name}"
    parts = {
        "Load it": code["here"],
        "Or get the folder": pull,
        "and load it in smp": code["smp"],
        "or in timm": code["timm"],
    }
    return "\n".join(f"<h2>{name}</h2><pre>{_lines(part)}</pre>" for name, part in parts.items())


def _lines(content: str) -> str:
    """As `text`, line by line: it would show a line's end as a sign."""
    return "\n".join(text(line) for line in content.splitlines())


def _about(entry: Found) -> dict[str, str]:
    card = entry.card
    metrics = {key: value for key, value in card.metrics.items() if key not in ("epoch", "loss")}
    return {
        **{key: f"{value:.1%}" for key, value in sorted(metrics.items())},
        **{f"mIoU, {spell_data(s.data)}": spell_score(s) for s in entry.scores},
        "corpus": ", ".join(source.name or "unnamed" for source in card.sources),
        "classes": str(len(card.classes) or "not published"),
        "licence": licences_of(card.sources),
        "restriction": "; ".join(s.restriction for s in card.sources if s.restriction),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe_of(card).items()),
        "note": str(card.config.get("note", "")),
        "input": f"{card.image_size} px; mean {_list(card.mean)}; std {_list(card.std)}",
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


def _share(value: float | None) -> str:
    if value is None:
        return '<span class="share"><i></i><span></span></span>'
    return (
        f'<span class="share"><i><b style="width:{100 * value:.1f}%"></b></i>'
        f"<span>{value:.1%}</span></span>"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _params(card: Card) -> str:
    params = find_arch(card.arch).params
    return "" if params is None else f"{params:.1f} M"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
