// The controls: whatever changes the state redraws what shows it.

const decided = { yes: "certified", no: "not certified", "not tested": "not tested" };

function put(id, text, value) {
  $(id).textContent = text;
  if (value === undefined || value === null) delete $(id).dataset.value;
  else $(id).dataset.value = value;
}

function explore() {
  const keep = data.levels[state.level];
  const row = rowsOf(state.criterion, state.recovery).find((r) => r.keep === keep);
  const dense = denseOf(state.recovery);
  put("out-keep", `${percent(keep)} (${percent(1 - keep)} sparse)`, keep);
  $("keep").setAttribute("aria-valuetext", `keep ${percent(keep)}`);
  $("out-certified").className = "chip";
  if (!row) {
    put("out-metric", "no record");
    $("out-suggested").hidden = true;
    for (const id of ["interval", "difference", "difference-interval", "certified", "kept", "prunable",
      "parameters", "bytes", "bytes-share"]) put(`out-${id}`, { certified: "not measured", interval: "" }[id] ?? (/-/.test(id) ? "" : "\u2013"));
    return;
  }
  put("out-metric", withUnit(number(row.test.mean), metric.unit), row.test.mean);
  put("out-interval", limits(row.test), row.test.low);
  const d = row.difference;
  put("out-difference", d ? judged(d.mean) : "\u2013", d && d.mean);
  put("out-difference-interval", d ? limits(d, true) : "", d && d.low);
  $("out-suggested").hidden = !data.suggested.some((s) =>
    s.criterion === state.criterion && s.recovery === state.recovery && s.keep === keep);
  put("out-certified", decided[row.certified], row.certified);
  $("out-certified").classList.add(row.certified.replace(" ", "-"));
  put("out-kept", count(row.kept), row.kept);
  put("out-prunable", count(row.prunable), row.prunable);
  put("out-parameters", count(row.parameters), row.parameters);
  put("out-bytes", size(row.bytes), row.bytes);
  put("out-bytes-share", dense ? `of ${size(dense.bytes)} dense` : "");
}

function show() {
  explore();
  drawCurve();
  if (data.comparisons.length) drawComparisons();
  if (data.layers.names.length) drawLayers();
  const named = data.recoveries.find((r) => r.name === state.recovery).label;
  for (const element of document.querySelectorAll('[data-now="cut"]'))
    element.textContent = `${state.criterion}, ${named}`;
}

function showAll() {
  show();
  if (data.gates.length) drawGates();
  if (data.training.length) drawTraining();
}

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, label]) => new Option(label, value)));
  select.value = chosen;
}

function setRecovery(recovery) {
  state.recovery = recovery;
  $("recovery").value = recovery;
  for (const radio of document.getElementsByName("recoveries")) radio.checked = radio.value === recovery;
  show();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function start() {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(system.matches ? "dark" : "light");
  let chosen = false;
  system.addEventListener("change", () => {
    if (!chosen) { setTheme(system.matches ? "dark" : "light"); showAll(); }
  });
  $("theme").addEventListener("click", () => {
    chosen = true;
    setTheme(dark() ? "light" : "dark");
    showAll();
  });

  $("recoveries").replaceChildren(...data.recoveries.map((r) => {
    const label = document.createElement("label"), radio = document.createElement("input");
    const text = document.createElement("span");
    Object.assign(radio, { type: "radio", name: "recoveries", value: r.name, checked: r.name === state.recovery });
    radio.addEventListener("change", () => setRecovery(r.name));
    text.textContent = r.label;
    label.append(radio, text);
    return label;
  }));
  options($("criterion"), data.criteria.map((c) => [c.name, c.name]), state.criterion);
  options($("recovery"), data.recoveries.map((r) => [r.name, r.label]), state.recovery);
  options($("gate-seed"), data.gates.map((g) => [g.seed, g.seed]), state.seed);
  $("criterion").addEventListener("change", (e) => { state.criterion = e.target.value; show(); });
  $("recovery").addEventListener("change", (e) => setRecovery(e.target.value));
  $("gate-seed").addEventListener("change", (e) => { state.seed = Number(e.target.value); drawGates(); });
  $("log").checked = state.log;
  for (const view of ["log", "zoom"]) $(view).addEventListener("change", (e) => {
    state[view] = e.target.checked;
    drawCurve();
    if (data.comparisons.length) drawComparisons();
  });

  $("keep").max = data.levels.length - 1;
  $("keep").value = state.level;
  put("keep-most", percent(data.levels[0]));
  put("keep-least", percent(data.levels[data.levels.length - 1]));
  $("keep").addEventListener("input", (e) => { state.level = Number(e.target.value); explore(); drawCurve(); });

  $("section-comparisons").hidden = !data.comparisons.length;
  $("section-layers").hidden = !data.layers.names.length;
  $("section-gates").hidden = !data.gates.length;
  $("section-training").hidden = !data.training.length;
  showAll();

  $("chart-curve").on("plotly_click", (event) => {
    const [name, keep] = event.points[0].customdata || [];
    if (name === undefined) return;
    state.criterion = $("criterion").value = name;
    state.level = data.levels.indexOf(keep);
    $("keep").value = state.level;
    show();
  });
  let was = narrow();
  window.addEventListener("resize", () => {
    if (narrow() !== was) { was = narrow(); showAll(); }
  });
}

start();
