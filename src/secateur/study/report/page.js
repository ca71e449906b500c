// The controls: whatever changes the state redraws what shows it.

const decided = { yes: "certified", no: "not certified", "not tested": "not tested" };

function put(id, text, value) {
  $(id).textContent = text;
  if (value === undefined || value === null) delete $(id).dataset.value;
  else $(id).dataset.value = value;
}

// What compiles the chosen network; a task that was made in Python has no name for a shell.
function shipping(keep) {
  const others = ["criterion", "recovery"].filter((what) => state[what] !== data.ship[what]);
  if (data.ship.task === "") {
    const given = others.map((what) => `, ${what}="${state[what]}"`).join("");
    return `secateur.compile(study.onnx(${keep}${given}), out="net.so")`;
  }
  const options = others.map((what) => ` --${what} ${state[what]}`).join("");
  const task = data.ship.task === null ? "" : ` --task ${data.ship.task}`;
  return `secateur compile STUDY --keep ${keep}${options}${task}`;
}

function explore() {
  const keep = data.levels[state.level];
  const row = rowOf(state.criterion, state.recovery, keep);
  const start = rowOf("start", "batchnorm", 1);
  put("out-keep", `${percent(keep)} (${percent(1 - keep)} sparse)`, keep);
  $("keep").setAttribute("aria-valuetext", `keep ${percent(keep)}`);
  $("out-certified").className = "chip";
  if (!row) {
    put("out-metric", "no record");
    $("out-suggested").hidden = true;
    for (const id of ["interval", "difference", "difference-interval", "certified", "kept", "prunable",
      "parameters", "bytes", "bytes-share", "command"]) put(`out-${id}`, { certified: "not measured", interval: "" }[id] ?? (/-/.test(id) ? "" : "\u2013"));
    return;
  }
  put("out-metric", withUnit(number(row.test.mean), metric.unit), row.test.mean);
  put("out-interval", limits(row.test), row.test.low);
  const d = row.difference;
  put("out-difference", d ? judged(d.mean) : "\u2013", d && d.mean);
  put("out-difference-interval", d ? limits(d, true) : "", d && d.low);
  $("out-suggested").hidden = !data.suggested.some(([criterion, recovery, least]) =>
    criterion === state.criterion && recovery === state.recovery && least === keep);
  put("out-certified", decided[row.verdict], row.verdict);
  $("out-certified").classList.add(row.verdict.replace(" ", "-"));
  put("out-kept", count(row.kept), row.kept);
  put("out-prunable", count(row.prunable), row.prunable);
  put("out-parameters", count(row.parameters), row.parameters);
  put("out-bytes", size(row.estimated_bytes), row.estimated_bytes);
  put("out-command", shipping(keep));
  put("out-bytes-share", start ? `of ${size(start.estimated_bytes)} uncut` : "");
}

function show() {
  explore();
  data.charts.forEach(drawChart);
  const named = data.recoveries.find((r) => r.name === state.recovery).label;
  for (const element of document.querySelectorAll('[data-now="cut"]'))
    element.textContent = `${state.criterion}, ${named}`;
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
    if (!chosen) { setTheme(system.matches ? "dark" : "light"); show(); }
  });
  $("theme").addEventListener("click", () => {
    chosen = true;
    setTheme(dark() ? "light" : "dark");
    show();
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
  options($("criterion"), data.criteria.map((name) => [name, name]), state.criterion);
  options($("recovery"), data.recoveries.map((r) => [r.name, r.label]), state.recovery);
  for (const select of document.querySelectorAll("[data-choose]")) {
    const name = select.dataset.choose;
    const parts = data.charts.flatMap((c) => [...c.series, ...c.bands, ...c.cells, ...c.histograms]);
    const values = [...new Set(parts.map((part) => part.when[name]).filter((v) => v !== undefined))];
    state[name] = values[0];
    options(select, values.map((value) => [value, value]), state[name]);
    select.addEventListener("change", () => { state[name] = values[select.selectedIndex]; show(); });
  }
  $("criterion").addEventListener("change", (e) => { state.criterion = e.target.value; show(); });
  $("recovery").addEventListener("change", (e) => setRecovery(e.target.value));
  $("log").checked = state.log;
  for (const view of ["log", "everything"]) $(view).addEventListener("change", (e) => {
    state[view] = e.target.checked;
    show();
  });

  $("keep").max = data.levels.length - 1;
  $("keep").value = state.level;
  put("keep-most", percent(data.levels[0]));
  put("keep-least", percent(data.levels[data.levels.length - 1]));
  $("keep").addEventListener("input", (e) => { state.level = Number(e.target.value); explore(); data.charts.filter((c) => c.cursor).forEach(drawChart); });

  offerDownloads();  // before anything is drawn, for they take room from the charts
  show();
  listen();

  let was = narrow(), waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      // parts of the other layout would stay
      if (narrow() !== was) document.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.purge(chart));
      show();
      if (narrow() !== was) listen();
      was = narrow();
    }, 120);
  });
}

// A click on a point chooses what it stands for.
function listen() {
  for (const chart of document.querySelectorAll(".js-plotly-plot")) chart.on("plotly_click", (event) => {
    const [pick, keep] = event.points[0].customdata || [];
    if (!pick || !pick.criterion) return;
    state.criterion = $("criterion").value = pick.criterion;
    $("keep").value = state.level = data.levels.indexOf(keep);
    show();
  });
}

start();
