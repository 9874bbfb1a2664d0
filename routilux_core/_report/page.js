"use strict";
// The page of a report. Texts are set as text, colours through the style object: the page's own policy forbids more.
// Times are microseconds from the beginning of a job.
(() => {
const COLOURS = ["#4c6ef5", "#12a594", "#f08c00", "#d6409f", "#7950f2", "#2f9e44", "#0c8ce9", "#e5633a", "#a8327e", "#7c9a1e", "#b08968", "#5f7fa8"];
const OUTCOMES = ["completed", "failed", "skipped", "retried"];
const OUTCOME_COLOURS = ["#12a594", "#e5484d", "#8b95a7", "#f08c00"];
const LEDGER_COLOURS = { completed: "#12a594", failed: "#e5484d", skipped: "#8b95a7", discarded: "#b5838d", pending: "#4c6ef5" };
const NS = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

// -- elements

function put(parent, children) {
  for (const each of children.flat(Infinity)) if (each !== null && each !== undefined && each !== false) parent.append(each);
  return parent;
}
function h(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  return put(made, children);
}
function s(tag, props, ...children) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(props || {})) made.setAttribute(name, value);
  return put(made, children);
}
const named = (text) => h("bdi", { class: "name" }, text);
function swatch(colour) { const made = h("span", { class: "swatch" }); made.style.background = colour; return made; }
function pairs(...rows) { return h("dl", { class: "pairs" }, rows.filter((row) => row[1] !== null && row[1] !== undefined).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])); }

// -- numbers

const count = (number) => number.toLocaleString("en");
function time(micro) {
  if (micro === null || micro === undefined || Number.isNaN(micro)) return "–";
  const size = Math.abs(micro);
  if (size >= 3.6e9) return `${(micro / 3.6e9).toPrecision(3)} h`;
  if (size >= 6e7) return `${Math.floor(micro / 6e7)} min ${((micro % 6e7) / 1e6).toFixed(0)} s`;
  if (size >= 1e6) return `${(micro / 1e6).toPrecision(size >= 1e7 ? 4 : 3)} s`;
  if (size >= 1e3) return `${(micro / 1e3).toPrecision(3)} ms`;
  return `${size >= 10 || !size ? Math.round(micro) : micro.toPrecision(2)} µs`;
}
const seconds = (value) => (value === null || value === undefined ? "–" : time(value * 1e6));
const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more || one + "s"}`;

// -- the spans

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (each) => each.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}
async function unpacked(text, job) {
  const data = new Uint8Array(await inflated(text));
  const { count: n, unit, planes } = job.rows;
  let at = 0;
  const column = (number) => {
    const found = new Float64Array(n);
    for (let plane = 0, weight = 1; plane < planes[number]; plane++, weight *= 256) {
      for (let row = 0; row < n; row++) found[row] += data[at + row] * weight;
      at += n;
    }
    return found;
  };
  const [slot, track, outcome, attempt, id, cause, posted, started, duration] = planes.map((_, number) => column(number));
  const signed = (value) => (value % 2 ? -(value + 1) / 2 : value / 2);
  const before = job.slots.map(() => null);
  let began = 0;
  const micro = unit / 1000;
  for (let row = 0; row < n; row++) {
    const last = before[slot[row]] || [0, 0, began];
    const mine = [last[0] + signed(id[row]), last[1] + signed(cause[row]), last[2] + signed(posted[row])];
    before[slot[row]] = mine;
    began += signed(started[row]);
    id[row] = mine[0];
    cause[row] = mine[1] - 1;
    posted[row] = mine[2] * micro;
    started[row] = began * micro;
    duration[row] *= micro;
  }
  return { n, slot, track, outcome, attempt, id, cause, posted, started, duration };
}

// -- what all sections share

let facts = null, jobs = [], chosen = 0, selected = null, hovered = null;
let colouring = "routine", showWaits = false, search = "", matches = null;
let view = [0, 1], whole = [0, 1];
const colours = new Map();

function colourOf(routine) {
  if (!colours.has(routine)) {
    const number = colours.size;
    colours.set(routine, COLOURS[number] || `hsl(${Math.round(number * 137.508) % 360} 55% 52%)`);
  }
  return colours.get(routine);
}

function prepare(job, number, rows) {
  const { n, track, started, duration, posted } = rows;
  const lanes = job.tracks.map((name) => ({ job: number, name, rows: [], ends: null }));
  for (let row = 0; row < n; row++) lanes[track[row]].rows.push(row);
  for (const lane of lanes) {
    let latest = 0;
    lane.ends = Float64Array.from(lane.rows, (row) => (latest = Math.max(latest, started[row] + duration[row])));
  }
  const end = lanes.reduce((latest, lane) => Math.max(latest, lane.ends.length ? lane.ends[lane.ends.length - 1] : 0), 0);
  const names = job.slots.map(([routine, slot]) => nameOf(job, routine, slot));
  return { ...job, number, data: rows, lanes, end, names, arrivals: Float64Array.from(posted).sort() };
}
const alone = (job, routine) => job.slots.filter((each) => each[0] === routine).length < 2;
const nameOf = (job, routine, slot) => (slot === "__call__" || alone(job, routine) ? routine : `${routine}.${slot}`);
const endOf = (data, row) => data.started[row] + data.duration[row];

// The number of values in a sorted array that are less than one, or not more than it.
function below(values, value, orEqual) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value || (orEqual && values[middle] === value)) low = middle + 1; else high = middle;
  }
  return low;
}

// -- the head of the page

function header() {
  const logo = s("svg", { width: 26, height: 26, viewBox: "0 0 26 26", "aria-hidden": "true" },
    s("path", { d: "M5 13h5M10 13c4 0 3-7 8-7M10 13c4 0 3 7 8 7M10 13h8", fill: "none", stroke: "#4c6ef5", "stroke-width": 2 }),
    s("circle", { cx: 5, cy: 13, r: 3.4, fill: "#4c6ef5" }), s("circle", { cx: 20, cy: 6, r: 3.2, fill: "#12a594" }),
    s("circle", { cx: 20, cy: 13, r: 3.2, fill: "#f08c00" }), s("circle", { cx: 20, cy: 20, r: 3.2, fill: "#d6409f" }));
  return h("header", {}, logo, h("h1", {}, named(facts.title)), h("span", { class: `pill ${jobs[chosen].status}`, id: "status" }, jobs[chosen].status),
    h("span", { class: "note" }, `${many(jobs.length, "job")} · written ${facts.made.replace("T", " ").replace("+00:00", " UTC")}`),
    h("span", { class: "tools" }, h("button", { id: "theme", type: "button", onclick: turnTheme, title: "light or dark" }, "◐ Theme")));
}
function turnTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  repaint();
}
const titleOf = (job) => (job.strategy ? job.strategy + (job.workers ? ` × ${job.workers}` : "") : job.id);

function race() {
  if (jobs.length < 2) return null;
  const longest = Math.max(...jobs.map((job) => job.figures.wall_time)) || 1;
  const first = jobs[0].figures.wall_time;
  return section("Side by side", "time from the start of each job to its end", h("div", { class: "race" }, jobs.map((job, number) => {
    const wall = job.figures.wall_time, factor = first / wall;
    const said = number && Number.isFinite(factor) ? h("i", {}, factor >= 1 ? `${factor.toPrecision(2)}× as fast` : `${(1 / factor).toPrecision(2)}× as long`) : null;
    const bar = s("svg", { height: 22, preserveAspectRatio: "none", viewBox: "0 0 1000 22" }, s("rect", { width: Math.max(3, (1000 * wall) / longest), height: 22, rx: 4, fill: COLOURS[number % COLOURS.length] }));
    return [named(titleOf(job)), bar, h("span", {}, h("b", {}, seconds(wall)), said)];
  })));
}

function tabs() {
  if (jobs.length < 2) return null;
  return h("nav", { role: "tablist", "aria-label": "jobs" }, jobs.map((job, number) => h("button", {
    role: "tab", type: "button", "aria-selected": String(number === chosen), onclick: () => choose(number),
  }, h("span", { class: `pill ${job.status}` }, job.status), named(titleOf(job)), h("span", { class: "note" }, named(job.id)))));
}
function choose(number) { chosen = number; render(); }

function section(title, note, ...content) {
  return h("section", {}, h("div", { class: "head" }, h("h2", {}, title, note ? h("small", {}, ` · ${note}`) : null)), content);
}

function headline(job) {
  const f = job.figures, l = job.ledger;
  const tile = (value, name, kind) => h("div", { class: `tile ${kind || ""}` }, h("b", {}, value), h("span", {}, name));
  const failures = job.errors.length + job.errors_left_out.failures + job.errors_left_out.attempts + job.errors_left_out.shown;
  return h("section", {}, h("div", { class: "tiles" },
    tile(seconds(f.wall_time), "from start to end"),
    tile(f.work_time === null ? "–" : seconds(f.work_time), "in handlers"),
    tile(f.parallelism === null ? "–" : `${f.parallelism.toFixed(2)}×`, "handlers at a time"),
    tile(count(l.posted), l.posted === 1 ? "activation" : "activations"),
    tile(f.throughput === null ? "–" : `${count(Number(f.throughput.toPrecision(3)))}/s`, "calls of handlers"),
    tile(count(failures), failures === 1 ? "error" : "errors", failures ? (l.failed ? "bad" : "warn") : ""),
    l.retried ? tile(count(l.retried), l.retried === 1 ? "retry" : "retries", "warn") : null), ledgerBar(l));
}
function ledgerBar(l) {
  const bar = s("svg", { height: 12, preserveAspectRatio: "none", viewBox: "0 0 1000 12", role: "img", "aria-label": "ledger" });
  let at = 0;
  for (const [name, colour] of Object.entries(LEDGER_COLOURS)) {
    const width = l.posted ? (1000 * l[name]) / l.posted : 0;
    if (width) bar.append(s("rect", { x: at, width: Math.max(2, width), height: 12, fill: colour }, s("title", {}, `${name}: ${count(l[name])}`)));
    at += width;
  }
  const keys = Object.entries(LEDGER_COLOURS).map(([name, colour]) => h("span", { class: "key" }, swatch(colour), name, h("b", { "data-ledger": name }, count(l[name]))));
  const others = ["retried", "emitted", "unconnected", "gathered"].map((name) => h("span", { class: "key" }, name, h("b", { "data-ledger": name }, count(l[name]))));
  return h("div", { class: "ledger" }, bar, h("div", { class: "legend" }, h("span", { class: "key" }, "posted", h("b", { "data-ledger": "posted" }, count(l.posted)), "="), keys), h("div", { class: "legend" }, "beside them:", others));
}

// -- the time line

const HEAD = 22, AXIS = 24, QUEUE = 30;
let canvas = null, overview = null, tip = null, boxes = [], height = 0, lane_height = 24, gutter = 96;

function timeline() {
  canvas = h("canvas", { id: "timeline", tabindex: 0, role: "application", "aria-label": "time line of the activations, by worker; arrow keys move from one to the next", "aria-describedby": "said" });
  overview = h("canvas", { id: "overview", class: "small", "aria-hidden": "true" });
  tip = tip || document.body.appendChild(h("div", { class: "tip", id: "tip", role: "tooltip", hidden: true }));
  const left = jobs.reduce((sum, job) => sum + job.left_out, 0);
  const find = h("input", { type: "search", id: "search", placeholder: "name, outcome or #7", "aria-label": "search activations", value: search, oninput: (event) => seek(event.target.value), onkeydown: (event) => { if (event.key === "Enter") { step(event.shiftKey ? -1 : 1, true); event.preventDefault(); } } });
  const by = h("select", { id: "colouring", "aria-label": "colour", onchange: (event) => { colouring = event.target.value; legend(); repaint(); } }, ["routine", "outcome"].map((each) => h("option", { value: each, ...(each === colouring ? { selected: true } : {}) }, `by ${each}`)));
  const waits = h("input", { type: "checkbox", id: "waits", onchange: (event) => { showWaits = event.target.checked; repaint(); } });
  waits.checked = showWaits;
  const made = section("Time line", left ? `the newest activations; ${count(left)} older ones are no longer in the ring of records` : "one row for each worker", h("div", { class: "stage" }, canvas), overview,
    h("div", { class: "legend", id: "legend" }), h("div", { id: "detail" }), h("p", { class: "note keys" }, "Drag to move, ", h("kbd", {}, "Ctrl"), " + wheel or ", h("kbd", {}, "+"), " ", h("kbd", {}, "−"), " to zoom, ", h("kbd", {}, "0"), " for all. Click, or ", h("kbd", {}, "←"), " ", h("kbd", {}, "→"), " ", h("kbd", {}, "↑"), " ", h("kbd", {}, "↓"), ", to select; ", h("kbd", {}, "C"), " to its cause, ", h("kbd", {}, "E"), " to its first effect, ", h("kbd", {}, "Enter"), " to zoom there, ", h("kbd", {}, "/"), " to search."), h("div", { id: "said", class: "hush", "aria-live": "polite" }));
  made.firstChild.append(h("div", { class: "tools" }, find, h("span", { class: "note", id: "found" }), h("label", {}, "colour", by), h("label", {}, waits, "queue waits"),
    h("button", { id: "in", type: "button", "aria-label": "zoom in", onclick: () => zoom(0.5) }, "+"), h("button", { id: "out", type: "button", "aria-label": "zoom out", onclick: () => zoom(2) }, "−"), h("button", { id: "all", type: "button", onclick: () => look(...whole) }, "All")));
  handle(canvas);
  handleOverview(overview);
  return made;
}

function legend() {
  const parent = byId("legend");
  if (!parent) return;
  const routines = [...new Set(jobs.flatMap((job) => job.slots.map(([routine]) => routine)))];
  const shown = colouring === "routine" ? routines.slice(0, 40).map((each) => [each, colourOf(each), each]) : OUTCOMES.map((each, number) => [each, OUTCOME_COLOURS[number], each]);
  parent.replaceChildren(...shown.map(([name, colour, term]) => h("button", { type: "button", class: "key", "aria-pressed": String(search === term), onclick: () => { seek(search === term ? "" : term); byId("search").value = search; } }, swatch(colour), named(name))));
  if (colouring === "routine" && routines.length > 40) parent.append(`and ${count(routines.length - 40)} more`);
}

function arrange() {
  const lanes = jobs.reduce((sum, job) => sum + job.lanes.length, 0);
  lane_height = Math.max(7, Math.min(26, Math.floor(560 / Math.max(1, lanes))));
  gutter = canvas.clientWidth < 560 ? 62 : 96;
  boxes = [];
  let y = AXIS;
  for (const job of jobs) {
    const top = y;
    if (jobs.length > 1) y += HEAD;
    const queue = y;
    y += QUEUE + 6;
    const lanes = job.lanes.map((lane) => ({ lane, y: (y += lane_height) - lane_height }));
    boxes.push({ job, top, queue, lanes });
    y += 10;
  }
  height = Math.max(90, y);
}
const X = (t) => gutter + ((t - view[0]) / (view[1] - view[0])) * (canvas.clientWidth - gutter - 8);
const T = (x) => view[0] + ((x - gutter) / (canvas.clientWidth - gutter - 8)) * (view[1] - view[0]);

let asked = false;
function repaint() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; paint(); });
}
function prepared(target, tall) {
  const width = target.clientWidth, ratio = devicePixelRatio || 1;
  target.style.height = `${tall}px`;
  if (target.width !== Math.round(width * ratio) || target.height !== Math.round(tall * ratio)) { target.width = Math.round(width * ratio); target.height = Math.round(tall * ratio); }
  const pen = target.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, tall);
  return pen;
}
let theme = null;
function themed() {
  const style = getComputedStyle(document.documentElement);
  theme = Object.fromEntries(["card", "line", "soft", "text", "dim", "faint", "accent", "bad"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function paint() {
  if (!canvas || !canvas.isConnected || !canvas.clientWidth) return;
  themed();
  arrange();
  const pen = prepared(canvas, height), width = canvas.clientWidth;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  axis(pen, width);
  for (const box of boxes) paintJob(pen, box, width);
  marks(pen);
  paintOverview();
  canvas.dataset.view = view.join(" ");
}
function axis(pen, width) {
  const span = view[1] - view[0], rough = (span / (width - gutter)) * 96;
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const tick = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough) || 1;
  pen.fillStyle = theme.dim;
  pen.strokeStyle = theme.line;
  pen.lineWidth = 1;
  pen.textAlign = "center";
  for (let t = Math.ceil(view[0] / tick) * tick; t <= view[1]; t += tick) {
    const x = Math.round(X(t)) + 0.5;
    if (x < gutter - 1) continue;
    pen.beginPath(); pen.moveTo(x, AXIS - 4); pen.lineTo(x, height); pen.stroke();
    if (x < width - 24) pen.fillText(tickName(t, tick), x, 9);
  }
}
function tickName(t, tick) {
  const [unit, name] = tick >= 1e5 ? [1e6, "s"] : tick >= 100 ? [1e3, "ms"] : [1, "µs"];
  const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(tick / unit) - 1e-9)));
  return `${(t / unit).toFixed(digits)} ${name}`;
}
function paintJob(pen, box, width) {
  const { job, queue, lanes, top } = box;
  pen.textAlign = "left";
  if (jobs.length > 1) {
    pen.fillStyle = theme.text;
    pen.font = "600 12px system-ui, sans-serif";
    pen.fillText(`${titleOf(job).slice(0, 60)}   ${seconds(job.figures.wall_time)}`, 2, top + HEAD / 2);
    pen.font = "11px system-ui, sans-serif";
  }
  paintQueue(pen, job, queue, width);
  for (const { lane, y } of lanes) {
    pen.fillStyle = theme.soft;
    pen.fillRect(gutter, y + 1, width - gutter - 8, lane_height - 2);
    if (lane_height >= 11) { pen.fillStyle = theme.dim; pen.fillText(lane.name, 2, y + lane_height / 2, gutter - 8); }
  }
  pen.save();
  pen.beginPath(); pen.rect(gutter, 0, width - gutter - 8, height); pen.clip();
  for (const { lane, y } of lanes) {
    if (showWaits) paintWaits(pen, job, lane, y);
    if (!matches) { paintLane(pen, job, lane, y, null); continue; }
    pen.globalAlpha = 0.16;
    paintLane(pen, job, lane, y, null);
    pen.globalAlpha = 1;
    paintLane(pen, job, lane, y, matches[job.number]);
  }
  pen.restore();
}
function paintQueue(pen, job, y, width) {
  const { arrivals, data } = job;
  const values = [];
  let most = 0;
  for (let x = gutter; x < width - 8; x++) {
    const t = T(x + 0.5);
    const waiting = below(arrivals, t, true) - below(data.started, t, true);
    values.push(waiting);
    most = Math.max(most, waiting);
  }
  pen.fillStyle = `${theme.accent}55`;
  const floor = y + QUEUE;
  values.forEach((value, number) => { if (value > 0) { const tall = Math.max(1.5, (value / most) * (QUEUE - 4)); pen.fillRect(gutter + number, floor - tall, 1, tall); } });
  pen.fillStyle = theme.line;
  pen.fillRect(gutter, floor, width - gutter - 8, 1);
  pen.fillStyle = theme.faint;
  pen.fillText("waiting,", 2, y + 8, gutter - 8);
  pen.fillText(`up to ${count(most)}`, 2, y + 21, gutter - 8);
}
function colourIn(job, row) {
  const { data } = job;
  return colouring === "outcome" ? OUTCOME_COLOURS[data.outcome[row]] : colourOf(job.slots[data.slot[row]][0]);
}
function paintLane(pen, job, lane, y, only) {
  const { data } = job, tall = lane_height - 4;
  const scale = (canvas.clientWidth - gutter - 8) / (view[1] - view[0]);
  let painted = -1, colour = "";
  for (let at = below(lane.ends, view[0], false); at < lane.rows.length; at++) {
    const row = lane.rows[at], start = data.started[row];
    if (start > view[1]) break;
    if (only && !only[row]) continue;
    let x = gutter + (start - view[0]) * scale, wide = data.duration[row] * scale;
    if (wide < 1) {
      const pixel = Math.floor(x);
      if (pixel === painted) continue;
      painted = pixel; x = pixel; wide = 1;
    } else {
      if (x < gutter - 4) { wide -= gutter - 4 - x; x = gutter - 4; }
      if (wide > 3) wide -= 0.7;
    }
    const mine = colourIn(job, row);
    if (mine !== colour) pen.fillStyle = colour = mine;
    if (wide > 6 && tall > 8) { pen.beginPath(); pen.roundRect(x, y + 2, Math.min(wide, 4000), tall, 3); pen.fill(); } else pen.fillRect(x, y + 2, Math.min(wide, 4000), tall);
    if (data.outcome[row] && colouring === "routine" && tall >= 5) { pen.fillStyle = colour = OUTCOME_COLOURS[data.outcome[row]]; pen.fillRect(x, y + tall - 1, Math.min(wide, 4000), 3); }
    if (wide > 46 && tall > 13) {
      const letters = Math.floor((wide - 10) / 6.2);
      const name = job.names[data.slot[row]];
      pen.fillStyle = colour = "#ffffff";
      pen.fillText(name.length > letters ? `${name.slice(0, letters - 1)}…` : name, Math.max(x, gutter) + 6, y + lane_height / 2 + 0.5);
    }
  }
}
function paintWaits(pen, job, lane, y) {
  const { data } = job;
  pen.fillStyle = theme.faint;
  let painted = -1e9;
  for (let at = below(lane.ends, view[0], false); at < lane.rows.length; at++) {
    const row = lane.rows[at], from = Math.max(gutter, X(data.posted[row])), to = X(data.started[row]);
    if (from > canvas.clientWidth) break;
    if (to - painted < 1) continue;
    const start = Math.max(from, painted);
    if (to > start) pen.fillRect(start, y + lane_height - 2, to - start, 2);
    painted = to;
  }
}
function placeOf(job, row) {
  const box = boxes[job];
  return box.lanes[box.job.data.track[row]].y;
}
function marks(pen) {
  for (const [mark, strong] of [[hovered, false], [selected, true]]) {
    if (!mark || !jobs[mark.job]) continue;
    const job = jobs[mark.job], { data } = job, y = placeOf(mark.job, mark.row), x = X(data.started[mark.row]);
    pen.save();
    pen.beginPath(); pen.rect(gutter - 2, 0, canvas.clientWidth, height); pen.clip();
    pen.strokeStyle = theme.text;
    pen.lineWidth = strong ? 2 : 1;
    if (strong) {
      const wait = X(data.posted[mark.row]);
      pen.setLineDash([3, 3]); pen.beginPath(); pen.moveTo(wait, y + lane_height / 2); pen.lineTo(x, y + lane_height / 2); pen.stroke(); pen.setLineDash([]);
      const before = data.cause[mark.row];
      if (before >= 0) link(pen, mark.job, before, mark.row);
      for (const after of effectsOf(mark, 200)) link(pen, mark.job, mark.row, after);
    }
    pen.strokeRect(x - 1, y + 1, Math.max(3, X(endOf(data, mark.row)) - x + 2), lane_height - 2);
    pen.restore();
  }
}
function link(pen, job, from, to) {
  const { data } = jobs[job], half = lane_height / 2;
  const x = X(Math.max(data.started[from], Math.min(data.posted[to], endOf(data, from)))), y = placeOf(job, from) + half, end_x = X(data.started[to]), end_y = placeOf(job, to) + half;
  pen.save();
  pen.strokeStyle = pen.fillStyle = theme.text;
  pen.lineWidth = 1.2;
  pen.globalAlpha = 0.75;
  const bend = Math.max(14, Math.min(80, (end_x - x) / 2));
  pen.beginPath(); pen.moveTo(x, y); pen.bezierCurveTo(x + bend, y, end_x - bend, end_y, end_x, end_y); pen.stroke();
  pen.beginPath(); pen.moveTo(end_x, end_y); pen.lineTo(end_x - 6, end_y - 3.5); pen.lineTo(end_x - 6, end_y + 3.5); pen.fill();
  pen.restore();
}
function paintOverview() {
  const tall = 40, pen = prepared(overview, tall), width = overview.clientWidth;
  const scale = (width - gutter - 8) / (whole[1] - whole[0]);
  pen.fillStyle = theme.soft;
  pen.fillRect(gutter, 0, width - gutter - 8, tall);
  const part = tall / jobs.length;
  jobs.forEach((job, number) => {
    const busy = new Float64Array(Math.max(1, width - gutter - 8)), { data } = job;
    for (let row = 0; row < data.n; row++) busy[Math.min(busy.length - 1, Math.floor((data.started[row] - whole[0]) * scale))] += 1;
    for (let row = 0; row < data.n; row++) {
      const from = Math.floor((data.started[row] - whole[0]) * scale), to = Math.min(busy.length - 1, Math.floor((endOf(data, row) - whole[0]) * scale));
      for (let x = from + 1; x <= to; x++) busy[x] += 1;
    }
    const most = busy.reduce((one, other) => Math.max(one, other), 1);
    pen.fillStyle = `${COLOURS[number % COLOURS.length]}bb`;
    busy.forEach((value, x) => { if (value) { const up = Math.max(1, (value / most) * (part - 4)); pen.fillRect(gutter + x, (number + 1) * part - up - 1, 1, up); } });
  });
  const from = gutter + (view[0] - whole[0]) * scale, to = gutter + (view[1] - whole[0]) * scale;
  pen.fillStyle = `${theme.card}aa`;
  pen.fillRect(gutter, 0, from - gutter, tall);
  pen.fillRect(to, 0, width - 8 - to, tall);
  pen.strokeStyle = theme.accent;
  pen.lineWidth = 1.5;
  pen.strokeRect(from + 0.75, 0.75, Math.max(2, to - from - 1.5), tall - 1.5);
}

// -- moving about

function look(from, to) {
  const least = 0.5, most = whole[1] - whole[0];
  let span = Math.max(least, Math.min(most, to - from));
  let start = from + (to - from - span) / 2;
  start = Math.max(whole[0], Math.min(whole[1] - span, start));
  view = [start, start + span];
  repaint();
}
function zoom(factor, around) {
  const middle = around === undefined ? (selected && inView(selected) ? jobs[selected.job].data.started[selected.row] : (view[0] + view[1]) / 2) : around;
  look(middle - (middle - view[0]) * factor, middle + (view[1] - middle) * factor);
}
const inView = (mark) => { const { data } = jobs[mark.job]; return endOf(data, mark.row) >= view[0] && data.started[mark.row] <= view[1]; };
function move(part) { const by = (view[1] - view[0]) * part; look(view[0] + by, view[1] + by); }

function hit(x, y) {
  for (const box of boxes) for (const { lane, y: top } of box.lanes) {
    if (y < top || y >= top + lane_height || x < gutter) continue;
    const t = T(x), { data } = box.job, slack = (3 * (view[1] - view[0])) / canvas.clientWidth;
    let best = null, distance = slack;
    let at = upper(lane.rows, data.started, t + slack) - 1;
    for (let tries = 0; at >= 0 && tries < 60; at--, tries++) {
      const row = lane.rows[at], away = t < data.started[row] ? data.started[row] - t : Math.max(0, t - endOf(data, row));
      if (away < distance || (away === 0 && best === null)) { best = row; distance = away; if (!away) break; }
    }
    return best === null ? null : { job: box.job.number, row: best };
  }
  return null;
}
function upper(rows, starts, t) {
  let low = 0, high = rows.length;
  while (low < high) { const middle = (low + high) >> 1; if (starts[rows[middle]] <= t) low = middle + 1; else high = middle; }
  return low;
}

function handle(target) {
  const pointers = new Map();
  let moved = false, grip = null;
  target.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event.offsetX);
    target.setPointerCapture(event.pointerId);
    moved = false;
    grip = { at: [...pointers.values()], view: [...view] };
  });
  target.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) { point(event); return; }
    pointers.set(event.pointerId, event.offsetX);
    const now = [...pointers.values()], per = (grip.view[1] - grip.view[0]) / (target.clientWidth - gutter - 8);
    if (now.length === 1) {
      if (Math.abs(now[0] - grip.at[0]) > 3) moved = true;
      if (moved) { const by = (grip.at[0] - now[0]) * per; look(grip.view[0] + by, grip.view[1] + by); hide(); }
    } else if (grip.at.length > 1) {
      moved = true;
      const factor = Math.abs(grip.at[0] - grip.at[1]) / Math.max(8, Math.abs(now[0] - now[1]));
      const middle = grip.view[0] + ((grip.at[0] + grip.at[1]) / 2 - gutter) * per;
      look(middle - (middle - grip.view[0]) * factor, middle + (grip.view[1] - middle) * factor);
    }
  });
  const let_go = (event) => { pointers.delete(event.pointerId); };
  target.addEventListener("pointerup", (event) => { let_go(event); if (!moved) select(hit(event.offsetX, event.offsetY)); });
  target.addEventListener("pointercancel", let_go);
  target.addEventListener("pointerleave", () => { hovered = null; hide(); repaint(); });
  target.addEventListener("dblclick", (event) => zoom(0.3, T(event.offsetX)));
  target.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.004), T(event.offsetX)); }
    else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) { event.preventDefault(); move(((event.deltaX || event.deltaY) / target.clientWidth) * 0.8); }
  }, { passive: false });
  target.addEventListener("keydown", key);
}
function handleOverview(target) {
  const at = (event) => {
    const t = whole[0] + ((event.offsetX - gutter) / (target.clientWidth - gutter - 8)) * (whole[1] - whole[0]), half = (view[1] - view[0]) / 2;
    look(t - half, t + half);
  };
  target.addEventListener("pointerdown", (event) => { target.setPointerCapture(event.pointerId); at(event); });
  target.addEventListener("pointermove", (event) => { if (event.buttons) at(event); });
}
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const done = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => look(...whole), Escape: () => select(null),
    ArrowRight: () => (event.shiftKey ? move(0.25) : step(1)), ArrowLeft: () => (event.shiftKey ? move(-0.25) : step(-1)),
    ArrowDown: () => change(1), ArrowUp: () => change(-1), Home: () => edge(0), End: () => edge(-1),
    c: () => selected && jump(jobs[selected.job].data.cause[selected.row]), e: () => selected && jump(effectsOf(selected, 1)[0]),
    Enter: () => selected && near(selected),
  }[event.key];
  if (done) { event.preventDefault(); done(); }
}
function near(mark) {
  const { data } = jobs[mark.job], wide = Math.max(data.duration[mark.row] * 4, 2);
  look(data.started[mark.row] - wide * 0.4, data.started[mark.row] + wide * 0.6);
}
function jump(row) { if (row !== undefined && row >= 0) select({ job: selected.job, row }); }
const laneOf = (mark) => jobs[mark.job].lanes[jobs[mark.job].data.track[mark.row]];
function first() { const job = jobs.find((each) => each.data.n); return job ? { job: job.number, row: job.lanes[0].rows[0] } : null; }
// One further in the lane; with a search, to the next that was found, anywhere.
function step(by, anywhere) {
  if (!selected && !(matches && anywhere)) { select(first()); return; }
  if (matches && anywhere) {
    let job = selected ? selected.job : 0, row = selected ? selected.row : by > 0 ? -1 : jobs[0].data.n;
    const all = jobs.reduce((sum, each) => sum + each.data.n, 0);
    for (let tries = 0; tries <= all; tries++) {
      row += by;
      while (row < 0 || row >= jobs[job].data.n) { job = (job + by + jobs.length) % jobs.length; row = by > 0 ? 0 : jobs[job].data.n - 1; if (!jobs[job].data.n && jobs.length === 1) return; }
      if (matches[job][row]) { select({ job, row }); return; }
    }
    return;
  }
  const { rows } = laneOf(selected);
  const row = rows[rows.indexOf(selected.row) + by];
  if (row !== undefined) select({ job: selected.job, row });
}
function change(by) {
  if (!selected) { select(first()); return; }
  const all = jobs.flatMap((job) => job.lanes), lane = all[all.indexOf(laneOf(selected)) + by];
  if (!lane) return;
  const { data } = jobs[lane.job], t = jobs[selected.job].data.started[selected.row];
  select({ job: lane.job, row: lane.rows[Math.max(0, upper(lane.rows, data.started, t) - 1)] });
}
function edge(at) { const mark = selected || first(); if (mark) select({ job: mark.job, row: laneOf(mark).rows.at(at) }); }

function select(mark) {
  selected = mark;
  if (mark && !inView(mark)) { const t = jobs[mark.job].data.started[mark.row], half = (view[1] - view[0]) / 2; look(t - half, t + half); }
  detail();
  repaint();
}
function point(event) {
  const mark = hit(event.offsetX, event.offsetY), same = mark && hovered && mark.job === hovered.job && mark.row === hovered.row;
  hovered = mark;
  if (!same) repaint();
  if (!mark) { hide(); return; }
  if (!same) tip.replaceChildren(...about(mark));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(innerWidth - box.width - 8, event.clientX + 14))}px`;
  tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
}
function hide() { if (tip) tip.hidden = true; }

function about(mark) {
  const job = jobs[mark.job], { data } = job, row = mark.row, [routine, slot] = job.slots[data.slot[row]];
  const outcome = OUTCOMES[data.outcome[row]], cause = data.cause[row];
  return [h("div", { class: "key" }, swatch(colourIn(job, row)), h("b", {}, named(job.names[data.slot[row]]))),
    pairs(["activation", `#${data.id[row]}` + (data.attempt[row] > 1 ? `, attempt ${data.attempt[row]}` : "")], ["outcome", outcome], ["ran", time(data.duration[row])], ["waited", time(Math.max(0, data.started[row] - data.posted[row]))],
      ["began at", time(data.started[row])], ["on", job.lanes[data.track[row]].name], ["caused by", cause >= 0 ? [named(job.names[data.slot[cause]]), ` #${data.id[cause]}`] : null])];
}
// Found by looking through the spans once, when somebody asks.
function effectsOf(mark, most) {
  const job = jobs[mark.job], { data } = job;
  if (!job.effects) {
    job.effects = new Map();
    for (let row = 0; row < data.n; row++) if (data.cause[row] >= 0 && data.attempt[row] === 1) { const list = job.effects.get(data.cause[row]); if (list) list.push(row); else job.effects.set(data.cause[row], [row]); }
  }
  return (job.effects.get(mark.row) || []).slice(0, most);
}
function detail() {
  const parent = byId("detail");
  if (!parent) return;
  parent.className = selected ? "detail" : "";
  if (!selected) { parent.replaceChildren(); return; }
  const job = jobs[selected.job], { data } = job;
  const go = (row) => h("button", { type: "button", onclick: () => select({ job: job.number, row }) }, `#${data.id[row]} `, named(job.names[data.slot[row]]));
  const chain = [];
  for (let row = data.cause[selected.row]; row >= 0 && chain.length < 12; row = data.cause[row]) chain.push(row);
  const effects = effectsOf(selected, 12), all = job.effects.get(selected.row) || [];
  parent.replaceChildren(h("div", {}, about(selected)),
    h("div", {}, h("span", { class: "note" }, chain.length ? "caused by, back to the entry" : "an entry, or the call of a gather slot"), h("div", {}, chain.map(go))),
    h("div", {}, h("span", { class: "note" }, effects.length ? `caused ${many(all.length, "activation")}` : "caused nothing that is recorded"), h("div", {}, effects.map(go))));
  const row = selected.row;
  byId("said").textContent = `${job.names[data.slot[row]]}, number ${data.id[row]}, ${OUTCOMES[data.outcome[row]]}, ran ${time(data.duration[row])}, waited ${time(data.started[row] - data.posted[row])}`;
}
function seek(text) {
  search = text;
  const term = text.trim().toLowerCase();
  matches = null;
  let found = 0, all = 0;
  if (term) {
    const number = /^#\d+$/.test(term) ? Number(term.slice(1)) : null, outcome = OUTCOMES.indexOf(term);
    matches = jobs.map((job) => {
      const { data } = job, fits = job.names.map((name, slot) => name.toLowerCase().includes(term) || job.slots[slot].some((each) => each.toLowerCase().includes(term)));
      const mine = new Uint8Array(data.n);
      for (let row = 0; row < data.n; row++) found += mine[row] = number !== null ? data.id[row] === number : outcome >= 0 ? data.outcome[row] === outcome || fits[data.slot[row]] : fits[data.slot[row]];
      all += data.n;
      return mine;
    });
  }
  byId("found").textContent = term ? `${count(found)} of ${count(all)}` : "";
  legend();
  repaint();
}

// -- the graph

function graph(job) {
  const picture = facts.pictures[job.picture];
  if (!picture.nodes.length) return null;
  const figures = new Map(job.routines.map((each) => [each.routine_id, each]));
  const work = job.routines.reduce((sum, each) => sum + (each.total_execution_time || 0), 0) || 1;
  const traffic = new Map(), { data } = job;
  for (let row = 0; row < data.n; row++) if (data.cause[row] >= 0 && data.attempt[row] === 1) {
    const pair = `${job.slots[data.slot[data.cause[row]]][0]}\n${job.slots[data.slot[row]][0]}`;
    traffic.set(pair, (traffic.get(pair) || 0) + 1);
  }
  const rooms = 26, width = picture.width + 2 * rooms, tall = picture.height + 2 * rooms + 16;
  const made = s("svg", { viewBox: `${-rooms} ${-rooms} ${width} ${tall}`, role: "img", "aria-label": "the graph of the flow", "font-size": 13 });
  made.style.width = `${width}px`;
  made.style.minWidth = `${Math.min(width, Math.max(300, width * 0.62))}px`;
  made.style.maxWidth = "100%";
  const labels = [];
  const leaving = new Map();
  for (const [source] of picture.arrows) leaving.set(source, (leaving.get(source) || 0) + 1);
  for (const [source, target, label, points] of picture.arrows) {
    const passed = traffic.get(`${picture.nodes[source][1]}\n${picture.nodes[target][1]}`) || 0;
    const loop = source === target, [path, head] = arrow(points, loop);
    const heavy = passed ? Math.min(5, 1.4 + Math.log10(passed)) : 1.2;
    made.append(s("g", {}, s("title", {}, passed ? `${label}: ${many(passed, "activation")}` : label), s("path", { d: path, fill: "none", stroke: "var(--faint)", "stroke-width": heavy, "stroke-opacity": passed ? 0.9 : 0.55 }), s("path", { d: head, fill: "var(--faint)" })));
    const ahead = points[2] > points[0] ? 1 : -1, half = label.length * 3;
    const [x, y] = loop ? [points[4] + 14 + half, points[5] + 4] : leaving.get(source) > 1 ? [points[2] - ahead * (half + 14), points[3] - 6] : [points[0] + ahead * (half + 10), points[1] - 6];
    labels.push(s("text", { x, y, "text-anchor": "middle", "font-size": 11, fill: "var(--dim)" }, label));
    if (passed && job.left_out === 0 && !loop) { const [at, up] = leaving.get(source) > 1 ? [x, points[3] + 13] : [x, points[1] + 13]; labels.push(s("text", { x: at, y: up, "text-anchor": "middle", "font-size": 11, "font-weight": 600, fill: "var(--dim)" }, count(passed))); }
  }
  picture.nodes.forEach(([what, name, kind, stateless, x, y, w, tall]) => {
    const mine = what === "output" ? null : figures.get(name), failed = mine ? mine.failed + mine.skipped : 0, round = stateless || what === "output";
    const colour = what === "output" ? "var(--dim)" : colourOf(name), short = name.length > 30 ? `${name.slice(0, 29)}…` : name;
    const said = mine && mine.total_executions ? `${name}: ${many(mine.total_executions, "call")}, ${seconds(mine.total_execution_time)} in all, ${seconds(mine.avg_execution_time)} each; waited ${seconds(mine.avg_queue_wait)} each` : name;
    const node = s("g", what === "output" ? {} : { class: "node", tabindex: 0, role: "button", "aria-label": said }, s("title", {}, said), s("rect", { x: x - w / 2, y: y - tall / 2, width: w, height: tall, rx: round ? tall / 2 : 7, fill: "var(--node)", stroke: failed ? "var(--bad)" : colour, "stroke-width": failed ? 2.4 : 1.8 }));
    node.append(s("text", { x, y: kind ? y - 2 : y + 4.5, "text-anchor": "middle", "font-weight": 600, fill: "var(--text)" }, short));
    if (kind) node.append(s("text", { x, y: y + 13, "text-anchor": "middle", "font-size": 11, fill: "var(--dim)" }, kind));
    if (mine && mine.total_executions) {
      const share = (mine.total_execution_time || 0) / work, wide = w - 24;
      node.append(s("rect", { x: x - wide / 2, y: y + tall / 2 + 4, width: wide, height: 4, rx: 2, fill: "var(--line)" }), s("rect", { x: x - wide / 2, y: y + tall / 2 + 4, width: Math.max(2, wide * share), height: 4, rx: 2, fill: colour }));
      const calls = `${count(mine.total_executions)}×  ${mine.avg_execution_time === null ? "" : seconds(mine.avg_execution_time)}`;
      node.append(s("text", { x, y: y + tall / 2 + 20, "text-anchor": "middle", "font-size": 10.5, fill: "var(--dim)" }, calls));
      if (failed) node.append(s("g", {}, s("rect", { x: x + w / 2 - 16, y: y - tall / 2 - 9, width: 12 + 7 * String(failed).length, height: 17, rx: 8.5, fill: "#e5484d" }), s("text", { x: x + w / 2 - 10 + 3.5 * String(failed).length, y: y - tall / 2 + 3.5, "text-anchor": "middle", "font-size": 11, "font-weight": 700, fill: "#fff" }, count(failed))));
      const find = () => { seek(search === name ? "" : name); byId("search").value = search; };
      node.addEventListener("click", find);
      node.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); find(); } });
    }
    made.append(node);
  });
  put(made, labels);
  return section("Graph", "calls, mean time, and share of all time in handlers; a click finds a routine in the time line", h("div", { class: "scroll graph" }, made));
}
function arrow(points, loop) {
  let [x, y] = points, path = `M${x} ${y}`;
  if (loop) return [`${path}C${points.slice(2).join(" ")}`, `M${points[6] - 3.5} ${points[7] - 8}L${points[6]} ${points[7]}L${points[6] + 3.5} ${points[7] - 8}Z`];
  for (let at = 2; at < points.length; at += 2) {
    const middle = (x + points[at]) / 2;
    path += `C${middle} ${y} ${middle} ${points[at + 1]} ${points[at]} ${points[at + 1]}`;
    [x, y] = [points[at], points[at + 1]];
  }
  const base = points[points.length - 4] > x ? x + 8 : x - 8;
  return [path, `M${base} ${y - 4}L${x} ${y}L${base} ${y + 4}Z`];
}

// -- critical path, routines, errors, and the rest

function path(job) {
  const { data } = job, steps = job.path;
  if (!steps.length) return null;
  const parts = steps.map((row, at) => {
    const next = steps[at + 1], last = steps[at - 1], end = endOf(data, row);
    // A retry waits from the end of the attempt before it.
    const again = next !== undefined && data.id[next] === data.id[row];
    const until = next === undefined || again ? end : Math.max(data.started[row], Math.min(end, data.posted[next]));
    const since = last !== undefined && data.id[last] === data.id[row] ? endOf(data, last) : data.posted[row];
    return { row, since, waited: Math.max(0, data.started[row] - since), ran: until - data.started[row] };
  });
  const ran = parts.reduce((sum, each) => sum + each.ran, 0), waited = parts.reduce((sum, each) => sum + each.waited, 0);
  const from = data.posted[steps[0]], to = endOf(data, steps[steps.length - 1]), scale = 1000 / (to - from || 1);
  const shown = parts.length > 60 ? [...parts.slice(0, 30), null, ...parts.slice(-30)] : parts;
  const lines = shown.map((each) => {
    if (!each) return [h("span", { class: "note" }, `${count(parts.length - 60)} more`), h("span"), h("span")];
    const { row } = each, x = (data.started[row] - from) * scale;
    const bar = s("svg", { viewBox: "0 0 1000 16", preserveAspectRatio: "none", "aria-hidden": "true" }, s("rect", { x: (each.since - from) * scale, y: 6, width: Math.max(0, each.waited * scale), height: 4, fill: "var(--faint)" }), s("rect", { x: Math.min(x, 997), y: 1, width: Math.max(3, each.ran * scale), height: 14, rx: 2, fill: colourOf(job.slots[data.slot[row]][0]) }));
    return [named(job.names[data.slot[row]]), bar, h("span", { class: "note" }, time(each.ran) + (each.waited >= 1 ? ` after ${time(each.waited)}` : ""))];
  });
  const left = job.path_left_out ? `; ${count(job.path_left_out)} earlier calls are not shown` : "";
  return section("Critical path", `what led to the call that ended last: ${time(ran)} in ${many(parts.length, "call")}, ${time(waited)} waiting${left}`, h("div", { class: "path" }, lines));
}

const ROWS = 500;
let sorting = ["total_execution_time", -1];
function routines(job) {
  const columns = [["routine_id", "routine"], ["total_executions", "calls"], ["completed", "completed"], ["failed", "failed"], ["skipped", "skipped"], ["retried", "retried"], ["total_execution_time", "in all"], ["avg_execution_time", "mean"], ["p50_execution_time", "p50"], ["p95_execution_time", "p95"], ["p99_execution_time", "p99"], ["max_execution_time", "longest"], ["avg_queue_wait", "mean wait"]]
    .filter(([key]) => job.routines.some((each) => key in each && (!["failed", "skipped", "retried"].includes(key) || each[key])));
  const order = (each) => (each[sorting[0]] === null || each[sorting[0]] === undefined ? -Infinity : each[sorting[0]]);
  const rows = [...job.routines].sort((one, other) => (order(one) < order(other) ? -1 : order(one) > order(other) ? 1 : 0) * sorting[1]);
  const shown = (each, key) => {
    if (key === "routine_id") return h("span", { class: "key" }, swatch(colourOf(each.routine_id)), named(each.routine_id), job.named[each.routine_id] ? h("small", {}, ` on ${job.named[each.routine_id]}`) : null);
    return /time|wait/.test(key) ? seconds(each[key]) : count(each[key]);
  };
  const table = h("table", { id: "routines" }, h("thead", {}, h("tr", {}, columns.map(([key, name]) => h("th", { scope: "col", "aria-sort": sorting[0] === key ? (sorting[1] > 0 ? "ascending" : "descending") : "none" }, h("button", { type: "button", onclick: () => { sorting = [key, sorting[0] === key ? -sorting[1] : key === "routine_id" ? 1 : -1]; byId("routines").closest("section").replaceWith(routines(jobs[chosen])); } }, name))))),
    h("tbody", {}, rows.slice(0, ROWS).map((each) => h("tr", {}, columns.map(([key]) => h("td", { "data-key": key }, shown(each, key)))))));
  const known = job.routines.reduce((sum, each) => sum + (each.percentile_records || 0), 0), calls = job.routines.reduce((sum, each) => sum + each.total_executions, 0);
  const made = section("Routines", [known < calls && `percentiles are of the newest ${count(known)} calls`, rows.length > ROWS && `the first ${ROWS} of ${count(rows.length)}`].filter(Boolean).join("; "), h("div", { class: "scroll" }, table));
  made.className = "long";
  return made;
}
function errors(job) {
  const left = job.errors_left_out;
  if (!job.errors.length && !left.failures && !left.attempts) return null;
  const more = [left.shown && `${count(left.shown)} more were kept`, left.failures && `${many(left.failures, "failure")} were not kept`, left.attempts && `${many(left.attempts, "retried or skipped attempt")} were not kept`].filter(Boolean).join("; ");
  const lines = job.errors.map((each, number) => h("details", number ? {} : { open: true },
    h("summary", {}, h("span", { class: `pill ${each.decision || ""}` }, each.decision || "undecided"), h("b", {}, named(nameOf(job, each.routine, each.slot))), "  ", named(each.error)),
    h("div", {}, h("span", { class: "note" }, `attempt ${each.attempt}`, each.keys.length ? [", called with ", named(each.keys.join(", "))] : null), h("pre", { tabindex: 0 }, each.traceback))));
  const made = section("Errors", more || many(job.errors.length, "error"), lines.slice(0, 12), lines.length > 12 ? h("details", {}, h("summary", {}, `${count(lines.length - 12)} more`), h("div", {}, lines.slice(12))) : null);
  made.className = "long";
  return made;
}
function rest(job) {
  const list = (lines) => h("ul", {}, lines.map((line) => h("li", {}, named(line))));
  const hints = section("What it says of itself", "", h("div", {}, list(job.explained)), job.hints.length ? [h("p", { class: "note" }, "What costs time without need"), list(job.hints)] : null);
  const own = Object.entries(job.named);
  const environment = section("Environment", "", pairs(["Job", named(job.id)], ["Flow", named(job.flow)], ["Began", job.at ? job.at.replace("T", " ").replace("+00:00", " UTC") : null], ["Strategy", job.strategy ? [named(job.strategy), job.workers ? `, ${many(job.workers, "worker")}` : ""] : null],
    ["Elsewhere", own.length ? own.map(([routine, strategy], at) => [at ? ", " : "", named(`${routine} on ${strategy}`)]) : null], ["Late emissions", job.late_emissions ? count(job.late_emissions) : null], ...Object.entries(facts.environment)));
  return h("div", { class: "two" }, hints, environment);
}

// -- all of it

function render() {
  const job = jobs[chosen], page = h("main", { id: "page" }, header(), race(), tabs(), headline(job), timeline(), graph(job), path(job), routines(job), errors(job), rest(job));
  const before = byId("page");
  if (before) before.replaceWith(page); else document.body.append(page);
  legend();
  detail();
  if (search) seek(search);
  paint();
}
async function show(told, texts) {
  const all = await Promise.all(told.jobs.map((job, number) => unpacked(texts[number], job)));
  const mark = selected && jobs[selected.job] ? { id: jobs[selected.job].data.id[selected.row], attempt: jobs[selected.job].data.attempt[selected.row] } : null;
  const everything = view[0] === whole[0] && view[1] === whole[1];
  facts = told;
  jobs = told.jobs.map((job, number) => prepare(job, number, all[number]));
  for (const job of jobs) for (const each of job.routines) colourOf(each.routine_id);
  whole = [0, Math.max(1, ...jobs.map((each) => each.end)) * 1.01];
  if (jobs.every((job) => job.left_out)) whole[0] = Math.max(0, Math.min(...jobs.map((job) => (job.data.n ? job.data.started[0] : 0))));
  if (everything) view = [...whole];
  if (mark) {
    const data = jobs[selected.job] && jobs[selected.job].data;
    const row = data ? data.id.findIndex((id, at) => id === mark.id && data.attempt[at] === mark.attempt) : -1;
    selected = row < 0 ? null : { job: selected.job, row };
  }
  hovered = null;
  chosen = Math.min(chosen, jobs.length - 1);
  render();
}

addEventListener("resize", repaint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("keydown", (event) => { if (event.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) { event.preventDefault(); byId("search").focus(); } });
let before_print = null;
addEventListener("beforeprint", () => { before_print = document.documentElement.dataset.theme || ""; document.documentElement.dataset.theme = "light"; for (const each of document.querySelectorAll("details")) each.open = true; paint(); });
addEventListener("afterprint", () => { if (before_print) document.documentElement.dataset.theme = before_print; else delete document.documentElement.dataset.theme; paint(); });
const read = async (text) => JSON.parse(new TextDecoder().decode(await inflated(text)));
// While a job runs, its state comes as events; the view, what is selected and what is typed stay as they are.
function follow(address) {
  const source = new EventSource(address);
  source.onmessage = async (event) => {
    const state = JSON.parse(event.data);
    const place = scrollY, focus = document.activeElement && document.activeElement.id;
    await show(await read(state.facts), state.rows);
    scrollTo(0, place);
    if (focus && byId(focus)) byId(focus).focus({ preventScroll: true });
  };
  source.addEventListener("end", () => source.close());
}
(async () => {
  const told = await read(byId("facts").textContent);
  await show(told, told.jobs.map((_, number) => byId(`rows-${number}`).textContent));
  document.body.dataset.ready = Math.round(performance.now());
  if (document.body.dataset.live) follow(document.body.dataset.live);
})();
})();
