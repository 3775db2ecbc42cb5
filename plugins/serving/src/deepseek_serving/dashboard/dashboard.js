// Shows /state, once a second: counts since the start, of which differences make rates and percentiles.
const EVERY = 1000, HISTORY = 120, WINDOW = 10;
const $ = (id) => document.getElementById(id);
const states = [];
const lines = new Map();
let key = sessionStorage.getItem("key") || "";

async function call(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) $("key-form").hidden = false;
  if (!response.ok) throw new Error(body.error || `status ${response.status}`);
  return body;
}

function percentile(bounds, counts, share) {
  const total = counts.reduce((a, b) => a + b, 0);
  let below = 0;
  for (let i = 0; i < counts.length && total; i++) {
    if (below + counts[i] >= share * total) {
      const low = i ? bounds[i - 1] : 0, high = bounds[Math.min(i, bounds.length - 1)];
      return low + ((high - low) * (share * total - below)) / counts[i];
    }
    below += counts[i];
  }
  return null;
}

const minus = (a, b) => a.map((value, i) => value - (b ? b[i] : 0));
const round = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(value >= 1 ? 3 : 2));
const milliseconds = (seconds) => (seconds === null ? "–" : round(seconds * 1000));
const bytes = (count) => (count >= 2 ** 30 ? `${(count / 2 ** 30).toFixed(1)} GiB` : `${Math.round(count / 2 ** 20)} MiB`);

function draw(card, id, model, before, state, seconds) {
  const set = (name, text) => { card.querySelector(`.${name}`).textContent = text; };
  const counts = model.counts, then = before && before.counts;
  const answered = counts.success.count - (then ? then.success.count : 0);
  const times = minus(counts.total_time.counts, then && then.total_time.counts);
  set("name", `${model.name} / ${model.version}`);
  set("state", model.state);
  card.querySelector(".state").classList.toggle("good", model.state === "READY");
  const spec = (tensor) => `${tensor.name} ${tensor.datatype}[${tensor.shape.join(", ")}]`;
  const facts = model.platform ? [
    `${model.platform} on ${model.device}`, bytes(model.memory_bytes), `loaded in ${counts.load_seconds.toFixed(2)} s`,
    `${model.inputs.map(spec).join(", ")} → ${model.outputs.map(spec).join(", ")}`,
  ] : [];
  card.querySelector(".facts").textContent = [...(model.reason ? [model.reason] : []), ...facts].join("; ");
  set("rate", round(answered / seconds));
  set("rows", round((counts.rows - (then ? then.rows : 0)) / seconds));
  for (const [name, share] of [["p50", 0.5], ["p90", 0.9], ["p99", 0.99]]) set(name, milliseconds(percentile(state.bounds, times, share)));
  set("queue", model.queued);
  set("errors", counts.fail.count);
  const line = lines.get(id) || [];
  lines.set(id, line);
  line.push(answered / seconds);
  if (line.length > HISTORY) line.shift();
  const top = Math.max(...line, 1);
  card.querySelector("polyline").setAttribute("points", line.map((v, i) => `${240 - (line.length - 1 - i) * 2},${58 - (54 * v) / top}`).join(" "));
  bars(card.querySelector(".bars"), minus(counts.batch_rows.counts, then && then.batch_rows.counts), state.sizes);
}

function bars(place, counts, sizes) {
  const top = Math.max(...counts, 1), space = "http://www.w3.org/2000/svg";
  place.replaceChildren(...counts.map((count, i) => {
    const column = document.createElement("span"), svg = document.createElementNS(space, "svg"), rect = document.createElementNS(space, "rect");
    svg.setAttribute("viewBox", "0 0 10 40");
    svg.setAttribute("preserveAspectRatio", "none");
    const height = (38 * count) / top;
    for (const [name, value] of [["x", 0], ["width", 10], ["y", 40 - height], ["height", height]]) rect.setAttribute(name, value);
    svg.append(rect);
    column.title = `${count} batches`;
    column.append(svg, i < sizes.length ? `≤${sizes[i]}` : "more");
    return column;
  }));
}

// How many seconds a device computed in each second: above 1 where several threads or processes do.
function devices(state, then, seconds) {
  const rows = new Map();
  const computed = (model) => Object.values(model.counts.batches).reduce((sum, batch) => sum + batch.ns, 0) / 1e9;
  for (const model of state.models) {
    if (!model.device) continue;
    const row = rows.get(model.device) || { models: 0, busy: 0, memory: 0 };
    rows.set(model.device, row);
    const before = then && then.models.find((item) => item.name === model.name && item.version === model.version);
    row.models += 1;
    row.busy += computed(model) - (before ? computed(before) : 0);
    row.memory += model.memory_bytes;
  }
  $("devices").querySelector("tbody").replaceChildren(...[...rows].sort().map(([name, row]) => {
    const line = document.createElement("tr");
    for (const text of [name, row.models, `${Math.round((100 * row.busy) / seconds)} %`, bytes(row.memory)]) line.insertCell().textContent = text;
    return line;
  }));
}

// Named classes as people read them; anything else as JSON.
function told(value) {
  if (Array.isArray(value) && value[0] && value[0].label !== undefined) {
    return value.map((item) => `\n  ${item.label} ${item.score.toFixed(3)}`).join("");
  }
  return JSON.stringify(value);
}

function show(state) {
  states.push(state);
  if (states.length > WINDOW + 1) states.shift();
  const then = states.length > 1 ? states[0] : null;
  const seconds = then ? state.now - then.now : state.now - state.started;
  $("ready").textContent = state.ready ? "ready" : "not ready";
  $("ready").classList.toggle("good", state.ready);
  $("facts").textContent = `version ${state.server.version}; up ${Math.round(state.now - state.started)} s; ${state.connections} connections`;
  const place = $("models"), found = new Set();
  for (const model of state.models) {
    const id = `${model.name}/${model.version}`;
    found.add(id);
    let card = [...place.children].find((item) => item.dataset.id === id);
    if (!card) {
      card = $("card").content.firstElementChild.cloneNode(true);
      card.dataset.id = id;
      place.append(card);
    }
    const before = then && then.models.find((item) => `${item.name}/${item.version}` === id);
    draw(card, id, model, before, state, Math.max(seconds, 0.001));
  }
  for (const card of [...place.children]) if (!found.has(card.dataset.id)) card.remove();
  devices(state, then, Math.max(seconds, 0.001));
  const names = [...new Set(state.models.map((model) => model.name))], select = $("model");
  if (names.join() !== [...select.options].map((option) => option.value).join()) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }
}

async function tick() {
  try {
    show(await call("state"));
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").textContent = error.message;
    $("trouble").hidden = false;
  }
  setTimeout(tick, EVERY);
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  sessionStorage.setItem("key", key);
  $("key-form").hidden = true;
});

$("picture").addEventListener("change", () => {
  const file = $("picture").files[0], preview = $("preview");
  preview.hidden = !file;
  if (file) preview.src = URL.createObjectURL(file);
});

$("ask-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = $("picture").files[0], body = file || $("text").value;
  const start = performance.now();
  try {
    const answer = await call(`v2/models/${encodeURIComponent($("model").value)}/predict`, { method: "POST", body });
    const lines = answer.rows.flatMap((row) => Object.entries(row).map(([name, value]) => `${name}: ${told(value)}`));
    $("answer").textContent = [`${Math.round(performance.now() - start)} ms`, ...lines].join("\n");
  } catch (error) {
    $("answer").textContent = error.message;
  }
});

tick();
