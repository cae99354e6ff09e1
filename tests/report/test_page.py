"""The page: everything is on it, whatever the names are, it loads nothing, and it stays small."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
import synthetic
import torch

from flint_posthoc.report.content import Limits
from flint_posthoc.report.page import render


class Elements(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [values[attribute] or "" for _, values in self.tags if attribute in values]


@pytest.fixture(scope="module")
def page() -> str:
    return render(synthetic.content())


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    return Elements(page)


def test_what_was_explained_stands_at_the_top(elements: Elements) -> None:
    text = " ".join(" ".join(elements.text).split())
    for words in (
        "What SmallCNN looks at",
        "conv1, conv2",
        "synthetic pictures",
        "J = 12",
        "3 May 2031",
        "torch 2.9.0",
        "a note on the data",
    ):
        assert words in text


def test_every_measure_of_the_evaluation_is_there_with_its_sentence(elements: Elements) -> None:
    for row in synthetic.content().survey.evaluation.rows():
        for words in row:
            assert words in elements.text


def test_every_link_leads_somewhere_and_no_id_is_given_twice(elements: Elements) -> None:
    ids = elements.values("id")
    assert len(ids) == len(set(ids))
    targets = [target for target in elements.values("href") if target.startswith("#")]
    assert len(targets) > 100
    assert {target[1:] for target in targets} <= set(ids)


def test_a_cell_leads_to_the_pictures_of_its_pair(elements: Elements) -> None:
    content = synthetic.content()
    for card in content.cards:
        anchor = f"attribute-{card.pair.attribute}-class-{card.pair.class_index}"
        assert any(tag == "a" and values.get("href") == f"#{anchor}" and "aria-label" in values for tag, values in elements.tags)


def test_exemplars_on_which_the_classifier_decides_otherwise_are_marked(page: str) -> None:
    cards = [card for card in synthetic.content().cards if card.exemplars]
    wrong = [card for card in cards for exemplar in card.exemplars if not exemplar.agrees]
    first = sum(not card.exemplars[0].agrees for card in cards)
    assert 0 < first < len(wrong) < 3 * len(cards)
    told, seen = "and the classifier decides otherwise", '<strong class="warning">the classifier decides otherwise</strong>'
    figures = [figure for figure in re.findall(r'<figure class="shown">.*?</figure>', page, re.DOTALL) if seen in figure or told in figure]
    assert all(seen in figure and told in figure for figure in figures)
    assert len(figures) == len(wrong) + sum(card.attribution is not None for card in wrong)  # where it looks is shown on the same image
    assert sum(seen in strip for strip in re.findall(r"<li data-attribute=.*?</li>", page, re.DOTALL)) == first
    assert sum("icon marked" in summary for summary in re.findall(r"<summary>.*?</summary>", page, re.DOTALL)) == first
    assert any("icon marked" in reason for reason in re.findall(r"<li><svg.*?</li>", page, re.DOTALL))


def test_nothing_is_loaded_and_the_policy_knows_style_and_script_by_their_hash(page: str, elements: Elements) -> None:
    assert not elements.values("src")
    links = [value for value in elements.values("href") if not value.startswith("#")]
    assert all(link.startswith("data:") for link in links)
    policy = next(values["content"] for _, values in elements.tags if values.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)
    for tag in ("style", "script"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'" in str(policy)
    assert not elements.values("style")
    assert not [name for _, values in elements.tags for name in values if name.startswith("on")]


def test_class_names_stay_text_and_are_shortened_in_tables() -> None:
    content = synthetic.content(class_names=synthetic.HOSTILE)
    elements = Elements(render(content))
    assert [tag for tag, _ in elements.tags].count("script") == 1
    assert "b" not in {tag for tag, _ in elements.tags}
    text = "".join(elements.text)
    for name in ("<script>alert(1)</script>", '"quoted" & <b>bold</b>', "🦊 fox 🦊", "ab?c d", "class 5"):
        assert name in text
    assert "x" * 500 in elements.values("title")
    assert max(map(len, re.findall("x+", " ".join(part for part in elements.text if "Class in full" not in part and len(part) < 400)))) < 30


def test_the_same_picture_is_held_once(page: str, elements: Elements) -> None:
    pictures = re.findall(r'href="(data:image/[^"]+)"', page)
    assert len(pictures) == len(set(pictures))
    shown = [values["href"] for tag, values in elements.tags if tag == "use"]
    assert len(shown) > len(pictures)


def test_what_could_not_be_shown_is_said(page: str) -> None:
    for words in (
        "did not rise",
        "not drawn: the time for pictures was spent",
        "not drawn: no image to start from",
        '<p class="note">not drawn</p>',
        "The attribute fires on none of the 212 images of this class",
        "the interpreter predicted this class for none of the images",
        "silent on every image",
        "On 38 images of 1,000 they disagree",
    ):
        assert words in page


def test_disagreements_come_first_and_are_marked(page: str) -> None:
    marks = re.findall(r'class="card single( differing)?"', page)
    assert marks == [" differing"] * 2 + [""] * 6
    assert "this does not explain the classifier&#39;s prediction" in page


def test_attributes_come_by_falling_relevance(elements: Elements) -> None:
    strengths = [max(float(pair.split(":")[1]) for pair in values.split()) for values in elements.values("data-relevance")]
    assert strengths == sorted(strengths, reverse=True)
    assert len(strengths) == 11


def test_limits_hold_and_are_said() -> None:
    content = synthetic.content(
        class_names=synthetic.names(30), attributes=25, pairs=6, limits=Limits(classes=7, attributes=9, pairs=6, confusions=1)
    )
    page = render(content)
    left = int((content.survey.world.relevance.nan_to_num().abs().amax(dim=1) > content.threshold).sum()) - 9
    assert page.count('class="card class"') == 7
    assert page.count('<th scope="row"><a') == 9
    assert "Shown are the 7 classes with most images, of 30." in page
    assert f"Shown are the 9 strongest attributes; {left} more have a part." in page
    assert f"{left} weaker attributes are left out." in page
    assert f"{content.pairs_found - 6} of {content.pairs_found} class-attribute pairs are listed without pictures" in page
    assert "and 1 rarer pairs of classes" in page


def test_nothing_to_show_is_a_page_too() -> None:
    content = synthetic.content(pairs=0, images=0)
    bare = synthetic.replace(content, threshold=0.99, pairs_found=0, failures=("The pictures could not be drawn: no <reason>",))
    page = render(bare)
    assert "No attribute serves a class" in page
    assert "The pictures could not be drawn: no &lt;reason&gt;" in page
    assert "Single images" not in page


def test_a_report_of_photographs_stays_small() -> None:
    content = synthetic.content(shape=(3, 224, 224), attributes=64, class_names=synthetic.names(10), pairs=80, images=32)
    assert len(content.cards) == 80
    assert len(render(content)) < 8e6


def test_the_page_does_not_depend_on_the_process(page: str) -> None:
    assert render(synthetic.content()) == page


def test_a_restricted_classifier_is_said_to_choose_otherwise() -> None:
    content = synthetic.content()
    restricted = synthetic.replace(content.survey.evaluation, inside_classes=0.6)
    page = render(synthetic.replace(content, survey=synthetic.replace(content.survey, evaluation=restricted)))
    assert "On 38 images of 1,000 they disagree. On 400 the classifier’s own choice is none of the classes explained here." in page


def test_grey_images_are_kept_pixel_by_pixel_and_photographs_are_not(page: str) -> None:
    assert '<body class="pixelated">' in page
    assert "data:image/webp" not in page
    photographs = render(synthetic.content(shape=(3, 80, 96), attributes=4, images=2))
    assert "<body>" in photographs
    assert "data:image/png" not in photographs


def test_other_channels_nan_and_values_outside_break_nothing() -> None:
    content = synthetic.content(shape=(2, 10, 12), attributes=4, images=2)
    spoilt = torch.full((2, 10, 12), float("nan"))
    cards = [synthetic.replace(card, pixels=(spoilt, *card.pixels[1:])) if card.pixels else card for card in content.cards]
    assert 'viewBox="0 0 12 10"' in render(synthetic.replace(content, cards=cards))


def test_links_lead_somewhere_where_attributes_are_left_out() -> None:
    page = render(synthetic.content(attributes=25, pairs=40, limits=Limits(attributes=3)))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))


def test_attributes_that_speak_against_a_class_are_not_called_idle() -> None:
    content = synthetic.content()
    world, last = content.survey.world, content.survey.evaluation.num_attributes - 3
    relevance = world.relevance.clone()
    relevance[last] = 0.0
    relevance[last, 0] = -0.9
    against = synthetic.replace(content, survey=synthetic.replace(content.survey, world=synthetic.replace(world, relevance=relevance)))
    page = render(against)
    assert "Serve no class" not in page
