// Search (page.html?q=WORDS, too) and sort; without it the page shows every encoder, best first.
const items = [...document.querySelectorAll("details")];
const search = document.querySelector("input");
const order = document.querySelector("select");
const count = document.querySelector("output");

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of items) {
    const found = words.every((word) => item.dataset.search.includes(word));
    item.hidden = !found;
    shown += found;
  }
  for (const list of document.querySelectorAll("section"))
    list.hidden = !list.querySelector("details:not([hidden])");
  count.textContent = `${shown} of ${items.length}`;
}

function sort() {
  const key = order.value;
  const value = (item) => (key === "name" ? item.id : Number(item.dataset[key] ?? -1)); // a segmenter has no score
  const sign = key === "mb" || key === "name" ? 1 : -1; // of accuracies the highest first
  items.sort((a, b) => (value(a) < value(b) ? -sign : value(a) > value(b) ? sign : 0));
  for (const list of document.querySelectorAll("section"))
    list.append(...items.filter((item) => item.parentElement === list));
}

function open() {
  const item = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (item) {
    item.open = true;
    item.scrollIntoView();
  }
}

search.value = new URLSearchParams(location.search).get("q") ?? "";
search.addEventListener("input", show);
order.addEventListener("change", sort);
addEventListener("hashchange", open);
show();
open();
