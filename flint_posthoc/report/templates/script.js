// The page is complete without this script. It opens what a link leads to, filters and sorts, and moves through the heat map by arrow keys.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const words = (text) => (text || "").split(" ").filter(Boolean);

// ---- what a link leads to is opened, shown and focused ----

function reveal(id) {
  const target = id && byId(id);
  if (!target) return;
  const card = target.closest(".card");
  if (card && card.hidden) showAll();
  const folded = target.closest("details");
  if (folded) folded.open = true;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const id = link.getAttribute("href").slice(1);
  if (!byId(id)) return;
  event.preventDefault();
  history.pushState(null, "", "#" + id);
  reveal(id);
});
window.addEventListener("popstate", () => reveal(location.hash.slice(1)));

// ---- filter and order ----

const filter = byId("filter");
const [ofClass, ofAttribute, order, result] = ["class", "attribute", "order", "result"].map((part) => byId("filter-" + part));

const kinds = [
  { selector: ".card.attribute", one: "attribute", many: "attributes", classes: (card) => [...relevance(card).keys()], attributes: (card) => [card.dataset.attribute] },
  { selector: ".card.class", one: "class", many: "classes", classes: (card) => [card.dataset.class], attributes: (card) => words(card.dataset.attributes) },
  { selector: ".card.single", one: "image", many: "images", classes: (card) => words(card.dataset.classes), attributes: (card) => words(card.dataset.attributes) },
];

function relevance(card) {
  return new Map(words(card.dataset.relevance).map((pair) => pair.split(":")).map(([index, value]) => [index, Number(value)]));
}

const strengths = {
  relevance: (card) => (ofClass.value ? relevance(card).get(ofClass.value) ?? -1 : Math.max(...relevance(card).values())),
  number: (card) => -Number(card.dataset.attribute),
  classes: (card) => relevance(card).size,
};

function matches(wanted, found) {
  return !wanted || found.includes(wanted);
}

function sortCards() {
  const strength = strengths[order.value];
  const cards = all(".card.attribute").sort((first, second) => strength(second) - strength(first) || first.dataset.attribute - second.dataset.attribute);
  byId("attribute-cards").append(...cards);
}

function applyFilter() {
  const counts = kinds.map((kind) => {
    const cards = all(kind.selector);
    for (const card of cards) card.hidden = !(matches(ofClass.value, kind.classes(card)) && matches(ofAttribute.value, kind.attributes(card)));
    const shown = cards.filter((card) => !card.hidden).length;
    return cards.length ? `${shown} of ${cards.length} ${cards.length === 1 ? kind.one : kind.many}` : "";
  });
  if (ofClass.value) all(".pair").forEach((pair) => { if (pair.dataset.class === ofClass.value) pair.open = true; });
  sortCards();
  result.textContent = "Shown: " + counts.filter(Boolean).join(", ");
}

function showAll() {
  ofClass.value = ofAttribute.value = "";
  applyFilter();
}

filter.hidden = false;
filter.addEventListener("change", applyFilter);
filter.addEventListener("reset", (event) => { event.preventDefault(); order.value = "relevance"; showAll(); });
filter.addEventListener("submit", (event) => event.preventDefault());

// ---- the heat map: one stop of the tab key, arrow keys inside ----

const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function rove(table) {
  const grid = all("tbody tr", table).map((row) => all("td", row).map((cell) => cell.querySelector("a")));
  const links = grid.flat().filter(Boolean);
  const stop = (chosen) => links.forEach((link) => { link.tabIndex = link === chosen ? 0 : -1; });
  stop(links[0]);
  table.addEventListener("focusin", (event) => { if (links.includes(event.target)) stop(event.target); });
  table.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    const row = grid.findIndex((cells) => cells.includes(event.target));
    if (!step || row < 0) return;
    event.preventDefault();
    nextLink(grid, row, grid[row].indexOf(event.target), step)?.focus();
  });
}

function nextLink(grid, row, column, [down, across]) {
  for (let y = row + down, x = column + across; grid[y] && x >= 0 && x < grid[y].length; y += down, x += across) {
    if (grid[y][x]) return grid[y][x];
  }
  return null;
}

all("table.heat").forEach(rove);
all(".scripted").forEach((hint) => { hint.hidden = false; });

// ---- on paper everything is open ----

let folded = [];
window.addEventListener("beforeprint", () => {
  folded = all("details:not([open])");
  folded.forEach((details) => { details.open = true; });
});
window.addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));

reveal(location.hash.slice(1));
