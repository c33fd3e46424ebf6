"use strict";
const $ = selector => document.querySelector(selector);
const make = (tag, properties, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

// ---- Numbers, short enough for a column.
const scaled = (n, step, units) => {
  let unit = 0;
  while (n >= step - 0.5 && unit + 1 < units.length) { n /= step; unit++; }
  return n.toFixed(unit === 0 || n >= 99.5 ? 0 : n >= 9.95 ? 1 : 2) + units[unit];
};
const count = n => n ? scaled(n, 1000, ["", "k", "M", "G", "T"]) : "–";
const bytes = n => n ? scaled(n, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]) : "–";
const rate = n => n >= 99.5 ? count(n) : n >= 9.95 ? n.toFixed(0) : n >= 0.05 ? n.toFixed(1) : "–";
const milliseconds = n => n ? (n < 10 ? n.toFixed(2) : n.toFixed(0)) + " ms" : "–";
const percent = share => (share * 100).toFixed(share && share < 0.1 ? 1 : 0) + " %";
const span = s => s < 60 ? s + " s" : s < 3600 ? Math.floor(s / 60) + " min" : s < 86400 ?
  Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min" : Math.floor(s / 86400) + " d " + Math.floor(s % 86400 / 3600) + " h";
const several = (n, one, many) => n + " " + (n === 1 ? one : many);

// ---- What changes: counters become rates, and what was seen of late a line.
const HISTORY = 60;
const histories = new Map(), counters = new Map(), sums = new Map();
let now = 0, before = 0;
const remember = (key, value) => {
  let history = histories.get(key);
  if (!history) histories.set(key, history = []);
  history.push(value);
  if (history.length > HISTORY) history.shift();
  return history;
};
/** Of a counter a second; a counter that fell is that of another process. */
const perSecond = (key, value) => {
  const last = counters.get(key);
  counters.set(key, value);
  return last === undefined || value < last || now <= before ? 0 : (value - last) * 1000 / (now - before);
};
/** Of so many calls that took so many seconds in all, what each of those took that have ended of late. */
const meanMilliseconds = (key, calls, seconds) => {
  const last = sums.get(key) || { calls, seconds };
  sums.set(key, { calls, seconds });
  const ended = calls - last.calls, took = seconds - last.seconds;
  return ended > 0 && took > 0 ? took * 1000 / ended : 0;
};

// ---- Tables, of which nothing is made anew that is there: a switch that is being used stays.
const text = (value, className) => ({ value: String(value), className: className || "" });
const number = (value, className) => text(value, "num " + (className || ""));
const wide = cell => ({ ...cell, className: cell.className + " wide" });
const bar = (share, value, className) => ({ ...text(value, className), share });
const line = history => ({ ...text("", ""), history });

const draw = (svg, history) => {
  const most = Math.max(...history, 1e-9), step = 100 / (HISTORY - 1), from = 100 - (history.length - 1) * step;
  const points = history.map((value, i) => (from + i * step).toFixed(1) + " " + (19 - 18 * value / most).toFixed(1)).join("L");
  const [area, path] = svg.children;
  path.setAttribute("d", "M" + points);
  area.setAttribute("d", "M" + from.toFixed(1) + " 20L" + points + "L100 20Z");
};
const sparkline = () => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const name of ["area", ""]) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    if (name) path.setAttribute("class", name);
    svg.append(path);
  }
  return svg;
};
const fill = (td, cell) => {
  if (td.className !== cell.className) td.className = cell.className;
  if (cell.history) return draw(td.firstChild || td.appendChild(sparkline()), cell.history);
  if (cell.switch) return cell.switch(td);
  if (td.dataset.share !== String(cell.share) || td.dataset.value !== cell.value) {
    Object.assign(td.dataset, { share: cell.share, value: cell.value });
    const inside = make("i");
    inside.style.width = Math.min(cell.share || 0, 1) * 100 + "%";
    td.replaceChildren(...(cell.share === undefined ? [] : [make("span", { className: "bar", ariaHidden: "true" }, inside)]), cell.value);
  }
};
/** `heads` begin with # where numbers stand below, and with - where a narrow screen leaves them out. */
const table = (id, heads, rows, nothing) => {
  const element = $("#" + id + " table");
  if (!element.tHead) {
    const cells = heads.map(head => make("th", { scope: "col", textContent: head.replace(/^[#-]+/, ""),
      className: (head.includes("#") ? "num " : "") + (head.startsWith("-") ? "wide" : "") }));
    element.append(make("thead", {}, make("tr", {}, ...cells)), make("tbody"));
  }
  const body = element.tBodies[0], known = new Map([...body.rows].map(row => [row.dataset.key, row])), taken = new Set();
  if (!rows.length) rows = [{ key: "none", cells: [text(nothing, "muted")] }];
  rows.forEach(({ key, first, cells }, at) => {
    // What there is twice has one row of the name, and others by their place.
    if (taken.has(key)) key += "\n" + at;
    taken.add(key);
    const row = known.get(key) || make("tr");
    known.delete(key);
    row.dataset.key = key;
    row.className = first ? "first" : "";
    cells.forEach((cell, i) => fill(row.cells[i] || row.insertCell(), cell));
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] || null);
  });
  known.forEach(row => row.remove());
};
