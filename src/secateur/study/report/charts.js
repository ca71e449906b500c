"use strict";
// The charts: each function reads the data, the state and the theme, and draws one.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { ...data.start, zoom: false, log: Math.min(...data.levels) < 0.05, seed: data.gates.length ? data.gates[0].seed : null };
const metric = data.metric;
const byName = new Map([...data.criteria, data.control].map((c) => [c.name, c]));

const $ = (id) => document.getElementById(id);
const dark = () => document.documentElement.dataset.theme === "dark";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (criterion) => (dark() ? byName.get(criterion).dark : byName.get(criterion).light);
const faded = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
const narrow = () => window.innerWidth < 600;

// Plotly reads a few tags in its texts: names must not be read as such.
const plain = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const number = (value, signed) => {
  let text = value.toFixed(metric.digits);
  if (Number(text) === 0) text = text.replace("-", "");
  else if (signed && value > 0) text = "+" + text;
  return text.replace("-", "\u2212");
};
const withUnit = (text, unit) => (unit ? `${text}\u00a0${unit}` : text);
const percent = (fraction) => `${Number((100 * fraction).toFixed(8))}\u00a0%`;
const count = (value) => Math.round(value).toLocaleString("en");
const size = (value) => {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5 || unit === "GB") return `${Number(value.toPrecision(3))}\u00a0${unit}`;
    value /= 1000;
  }
};
const limits = (interval, signed) =>
  interval.low === null
    ? `n = ${interval.n}`
    : `[${number(interval.low, signed)}, ${number(interval.high, signed)}]`;

const rowsOf = (criterion, recovery) =>
  data.rows.filter((r) => r.criterion === criterion && r.recovery === recovery);
const denseOf = (recovery) => data.dense.find((d) => d.recovery === recovery);
const below = (interval) => (interval.low === null ? 0 : interval.mean - interval.low);
const above = (interval) => (interval.high === null ? 0 : interval.high - interval.mean);

function draw(id, traces, layout) {
  const axis = {
    gridcolor: css("--grid"), zeroline: false, linecolor: css("--line"), automargin: true,
    tickfont: { color: css("--soft"), size: 12 }, fixedrange: true,
  };
  const title = (own) =>
    own && own.title
      ? { title: { standoff: 10, font: { color: css("--soft"), size: 13 }, ...own.title } }
      : {};
  const merged = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: css("--font"), color: css("--ink"), size: 13 },
    margin: { l: 54, r: 16, t: 14, b: 48 }, hovermode: "closest", dragmode: false,
    hoverlabel: {
      bgcolor: css("--card"), bordercolor: css("--line"),
      font: { color: css("--ink"), family: css("--font"), size: 13 }, align: "left",
    },
    ...layout,
  };
  for (const key of Object.keys(layout).filter((k) => /^[xy]axis/.test(k)).concat("xaxis", "yaxis"))
    merged[key] = { ...axis, ...(layout[key] || {}), ...title(layout[key]) };
  Plotly.react($(id), traces, merged, { displayModeBar: false, responsive: true });
}

// A signed difference with its unit, and whether it is better or worse.
const judged = (value) => {
  const text = number(value, true), zero = !/[1-9]/.test(text);
  const verdict = zero ? "" : (value > 0) === metric.higher_is_better ? " (better)" : " (worse)";
  return withUnit(text, metric.difference_unit) + verdict;
};
const axisTitle = () => `test ${metric.label}`;
// Where a keep ratio lies on the sparsity axis, from 0 (dense) to 100 (the right end). The
// logarithmic scale gives each halving of the weights the same width.
const least = Math.min(...data.levels);
const at = (keep) => (state.log ? (100 * Math.log(keep)) / Math.log(least * 0.9) : 100 * (1 - keep));
const TICKS = [0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99];

function sparsityAxis() {
  const even = narrow() ? [0, 25, 50, 75, 100] : [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
  const ticks = state.log ? TICKS.filter((t) => 1 - t / 100 >= 0.95 * least) : even;
  return { title: { text: "sparsity: prunable weights removed (%)" }, range: [-2.5, 101],
    tickvals: ticks.map((t) => at(1 - t / 100)), ticktext: ticks };
}

// Labels at the ends of lines, moved apart where they would lie over each other.
function endLabels(ends, range, height) {
  const gap = (15 / height) * (range[1] - range[0]);
  const sorted = ends.filter((e) => e.y >= range[0] && e.y <= range[1]).sort((a, b) => a.y - b.y);
  sorted.forEach((end, i) => {
    end.at = i ? Math.max(end.y, sorted[i - 1].at + gap) : end.y;
  });
  for (let i = sorted.length - 1, top = range[1]; i >= 0; top = sorted[i].at - gap, i--)
    sorted[i].at = Math.min(sorted[i].at, top);
  return sorted.map((end) => ({
    x: end.x, xanchor: "left", xshift: 9, y: end.at, yanchor: "middle",
    text: `<b>${plain(end.name)}</b>`, showarrow: false, font: { color: end.colour, size: 12.5 },
    bgcolor: faded(css("--card"), 0.7), borderpad: 1,
  }));
}

// Room to the right of the plot, so that no label of `ends` is cut off.
function labelRoom(id, ends) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `bold 13px ${css("--font")}`;
  const inside = ($(id).clientWidth - 130) / 103.5;
  return Math.max(16, ...ends.map(({ name, x }) => pen.measureText(name).width + 16 - (101 - x) * inside));
}

function spread(values, share = 0.06) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * share;
  return [low - room, high + room];
}

function curveRange(dense) {
  const shown = data.rows.filter((r) => r.recovery === state.recovery);
  if (state.zoom && dense) {
    const worse = metric.higher_is_better ? -1 : 1;
    const ends = [dense.test.mean + 9 * worse * data.margin, dense.test.mean - 3 * worse * data.margin];
    return [Math.min(...ends), Math.max(...ends)];
  }
  const values = shown.flatMap((r) => [r.test.mean, r.test.low ?? r.test.mean, r.test.high ?? r.test.mean]);
  if (dense) values.push(dense.test.mean + data.margin, dense.test.mean - data.margin);
  if (!values.length) return [0, 1];
  const range = spread(values);
  // A wide interval of few seeds must not squeeze the curve: no share lies outside 0 to 100.
  const share = metric.unit === "%" && [...data.dense, ...data.rows].every((r) => r.test.mean >= 0 && r.test.mean <= 100);
  return share ? [Math.max(range[0], -2), Math.min(range[1], 102)] : range;
}

// Runs of levels with one recovery: from cuts that are recalibrated to those that are fine-tuned
// as well no line leads.
function runs(rows) {
  const found = [];
  rows.forEach((row, i) => {
    const before = rows[i - 1];
    const jump = before && before.keep < 1 && before.dense_recovery !== row.dense_recovery;
    if (!before || jump) found.push([]);
    found[found.length - 1].push(row);
  });
  return found;
}

function drawCurve() {
  const dense = denseOf(state.recovery);
  const range = curveRange(dense);
  const traces = [], shapes = [], annotations = [], ends = [];
  const region = data.regions.find(
    (r) => r.criterion === state.criterion && r.recovery === state.recovery);
  if (region && region.lowest_keep !== null) {
    const end = at(region.lowest_keep), tint = colour(state.criterion);
    shapes.push({ type: "rect", yref: "paper", y0: 0, y1: 1, x0: 0, x1: end, layer: "below",
      fillcolor: faded(tint, dark() ? 0.13 : 0.08), line: { width: 0 } });
    const top = !metric.higher_is_better;  // the curves begin at the other end
    annotations.push({ x: 0, xanchor: "left", yref: "paper", y: top ? 1 : 0, yanchor: top ? "top" : "bottom", showarrow: false,
      text: `operating region, to ${percent(1 - region.lowest_keep)}`,
      font: { color: tint, size: 12 } });
  }
  if (dense) {
    const mean = dense.test.mean, worst = mean + (metric.higher_is_better ? -1 : 1) * data.margin;
    shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: worst, y1: mean, layer: "below",
      fillcolor: faded(css("--ink"), 0.13), line: { width: 0 } });
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: mean, y1: mean, layer: "below",
      line: { color: css("--ink"), width: 1.2 } });
    traces.push({ x: [0], y: [mean], mode: "markers", hoverinfo: "text",
      hovertext: [`<b>dense</b><br>${withUnit(number(mean), metric.unit)} ${limits(dense.test)}` +
        `<br>n = ${dense.test.n}<br>${count(dense.kept)} weights`],
      error_y: { type: "data", symmetric: false, array: [above(dense.test)],
        arrayminus: [below(dense.test)], color: css("--ink"), thickness: 1.4, width: 4 },
      marker: { color: css("--ink"), size: 7, symbol: "line-ew-open" } });
  }
  const level = at(data.levels[state.level]);
  shapes.push({ type: "line", x0: level, x1: level, yref: "paper", y0: 0, y1: 1, layer: "below",
    line: { color: css("--soft"), width: 1, dash: "dot" } });
  // The criterion chosen is drawn last, over the others.
  const order = [...data.criteria].reverse().sort((a, b) => (a.name === state.criterion) - (b.name === state.criterion));
  for (const { name, symbol } of order) {
    const all = rowsOf(name, state.recovery);
    if (!all.length) continue;
    const tint = colour(name), chosen = name === state.criterion;
    for (const rows of runs(all)) {
      const x = rows.map((r) => at(r.keep)), bounded = rows.filter((r) => r.test.low !== null);
      traces.push({ hoverinfo: "skip", mode: "lines", fill: "toself", line: { width: 0 },
        fillcolor: faded(tint, 0.15),
        x: [...bounded, ...[...bounded].reverse()].map((r) => at(r.keep)),
        y: [...bounded.map((r) => r.test.high), ...[...bounded].reverse().map((r) => r.test.low)] });
      traces.push({ x, y: rows.map((r) => r.test.mean), mode: "lines+markers", name: plain(name),
        line: { color: tint, width: chosen ? 2.6 : 1.8 },
        error_y: { type: "data", symmetric: false, array: rows.map((r) => above(r.test)),
          arrayminus: rows.map((r) => below(r.test)), color: tint, thickness: 1.2, width: 3 },
        marker: { symbol, size: chosen ? 9 : 8, line: { color: tint, width: 1.8 },
          color: rows.map((r) => (r.certified === "yes" ? tint : css("--card"))) },
        customdata: rows.map((r) => [name, r.keep]), hoverinfo: "text",
        hovertext: rows.map((r) => `<b>${plain(name)}</b>, ${percent(r.sparsity)} sparse<br>` +
          `${withUnit(number(r.test.mean), metric.unit)} ${limits(r.test)}<br>` +
          (r.difference ? `${judged(r.difference.mean)} against dense<br>` : "") +
          `n = ${r.test.n}, ${count(r.kept)} weights kept<br>` +
          { yes: "certified", no: "not certified", "not tested": "not tested" }[r.certified]) });
    }
    const last = all[all.length - 1];
    ends.push({ name, x: at(last.keep), y: last.test.mean, colour: tint });
  }
  const drawn = ends.length;
  // outside of the plot, moved apart from the others: inside, curves that end near dense cross it
  if (dense) {
    const value = narrow() ? "" : ` ${withUnit(number(dense.test.mean), metric.unit)}`;
    ends.push({ name: `dense${value}`, x: 101, y: dense.test.mean, colour: css("--ink") });
  }
  if (!drawn) annotations.push({ xref: "paper", yref: "paper", x: 0.5, y: 0.5,
    text: "no trial yet", showarrow: false, font: { color: css("--soft"), size: 14 } });
  const height = $("chart-curve").clientHeight - 62;
  annotations.push(...endLabels(ends, range, height));
  draw("chart-curve", traces, { shapes, annotations,
    margin: { l: 54, r: labelRoom("chart-curve", ends), t: 14, b: 48 },
    xaxis: sparsityAxis(), yaxis: { title: { text: plain(axisTitle()) }, range } });
}

function drawComparisons() {
  const found = data.comparisons.filter((c) => c.recovery === state.recovery);
  const others = [...new Set(found.map((c) => c.other))];
  const ends = [], traces = [], values = [0];
  const step = Math.min(0.9, 2 / others.length), half = (others.length - 1) / 2;  // side by side at a level
  const compared = new Map(rowsOf(found[0]?.criterion, state.recovery).map((r) => [r.keep, r.dense_recovery]));
  others.forEach((other, i) => {
    const rows = found.filter((c) => c.other === other)
      .map((c) => ({ ...c, dense_recovery: compared.get(c.keep) }));
    const tint = colour(other), shift = (i - half) * step;
    values.push(...rows.flatMap((c) => [c.difference.mean, c.difference.low ?? 0, c.difference.high ?? 0]));
    for (const run of runs(rows)) traces.push({ x: run.map((c) => at(c.keep) + shift),
      y: run.map((c) => c.difference.mean), mode: "lines+markers",
      line: { color: tint, width: 1.6 }, marker: { color: tint, size: 8, symbol: byName.get(other).symbol },
      error_y: { type: "data", symmetric: false, color: tint, thickness: 1.4, width: 3,
        array: run.map((c) => above(c.difference)), arrayminus: run.map((c) => below(c.difference)) },
      hoverinfo: "text", hovertext: run.map((c) =>
        `<b>${plain(c.criterion)} \u2212 ${plain(other)}</b>, ${percent(1 - c.keep)} sparse<br>` +
        `${judged(c.difference.mean)} ${limits(c.difference, true)}<br>` +
        `n = ${c.difference.n}`) });
    ends.push({ name: narrow() ? `\u2212 ${other}` : `gate \u2212 ${other}`, x: at(rows[rows.length - 1].keep) + half * step, y: rows[rows.length - 1].difference.mean, colour: tint });
  });
  const unit = metric.difference_unit ? ` (${metric.difference_unit})` : "";
  // from the whole range, where random's losses are tens of points, to that of the curve's zoom
  const range = state.zoom ? [-9 * data.margin, 9 * data.margin] : spread(values);
  draw("chart-comparisons", traces, {
    annotations: endLabels(ends, range, $("chart-comparisons").clientHeight - 62),
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, layer: "below",
      line: { color: css("--ink"), width: 1.2 } }],
    margin: { l: 54, r: labelRoom("chart-comparisons", ends), t: 14, b: 48 },
    xaxis: sparsityAxis(), yaxis: { title: { text: plain(`gate \u2212 other${unit}`) }, range } });
}

// Where every prunable parameter is a weight, its name need not say so.
const allWeights = data.layers.names.every((name) => name.endsWith(".weight"));
const short = (name) => (allWeights ? name.replace(/\.weight$/, "") : name);

function drawLayers() {
  const rows = rowsOf(state.criterion, state.recovery);
  const { names, totals } = data.layers;
  const labels = names.map((name) => {
    const text = short(name);
    return narrow() && text.length > 14 ? "\u2026" + text.slice(-13) : text;
  });
  const share = (r, i) => (r.layers[i] === null ? null : (100 * r.layers[i]) / totals[i]);
  const z = names.map((_, i) => rows.map((r) => share(r, i)));
  const written = rows.length <= (narrow() ? 5 : 14);
  const text = z.map((line) => line.map((v) =>
    v === null ? "" : v === 0 ? "\u00d7" : written ? (v < 0.05 ? "&lt;0.1" : v < 9.95 ? v.toFixed(1) : v.toFixed(0)) : ""));
  $("chart-layers").style.height = `${Math.max(190, 92 + 27 * names.length)}px`;
  const ticks = { tickmode: "array", tickvals: rows.map((_, i) => i), ticktext: rows.map((r) => Number((100 * r.sparsity).toFixed(8))) };
  draw("chart-layers", [{ type: "heatmap", z, text, texttemplate: "%{text}", zmin: 0, zmax: 100,
    x: rows.map((_, i) => i), y: names.map((_, i) => i), xgap: 2, ygap: 2, textfont: { size: 11.5 },
    colorscale: [[0, css("--low")], [0.5, css("--mid")], [1, css("--high")]],
    colorbar: { title: { text: "kept (%)", side: "right", font: { color: css("--soft"), size: 12 } },
      thickness: 10, outlinewidth: 0, tickfont: { color: css("--soft"), size: 11 }, len: 1 },
    showscale: !narrow(), hoverinfo: "text",
    hovertext: z.map((line, i) => line.map((v, j) => v === null ? "no record" :
      `<b>${plain(names[i])}</b>, ${percent(rows[j].sparsity)} sparse over all<br>` +
      `${count(rows[j].layers[i])} of ${count(totals[i])} kept (${v.toFixed(2)} %)`)) }],
  { margin: { l: 40, r: 8, t: 6, b: 48 },
    xaxis: { ...ticks, showgrid: false, title: { text: "sparsity of the whole network (%)" } },
    yaxis: { tickmode: "array", tickvals: names.map((_, i) => i), ticktext: labels.map(plain),
      range: [names.length - 0.5, -0.5], showgrid: false } });
}

const STAGES = ["train", "gates", "control"];

function drawTraining() {
  const tints = { train: css("--soft"), gates: colour(byName.has("gate") ? "gate" : data.criteria[0].name),
    control: css("--accent") };
  const validated = data.training.some((s) => s.log.some((e) => e.validation !== null));
  const traces = [], last = {};
  for (const s of data.training) if (s.stage === "train") last[s.seed] = s.log.length;
  for (const s of data.training) {
    const start = s.stage === "train" ? 0 : last[s.seed] || 0;
    const first = !traces.some((t) => t.legendgroup === s.stage);
    const panels = [["loss", "y", "loss"], ...(validated ? [["validation", "y2", "validation"]] : [])];
    panels.forEach(([key, yaxis, label], i) => {
      traces.push({ x: s.log.map((e) => start + e.epoch), y: s.log.map((e) => e[key]), yaxis,
        xaxis: "x", mode: s.log.length > 1 ? "lines" : "markers", legendgroup: s.stage,
        name: plain(s.stage), showlegend: first && i === 0, opacity: 0.85,
        line: { color: tints[s.stage] || css("--ink"), width: 1.6 },
        marker: { color: tints[s.stage] || css("--ink") },
        hovertemplate: `${plain(s.stage)}, seed ${s.seed}<br>epoch %{x}: ${label} %{y:.4g}<extra></extra>` });
    });
  }
  $("training-validation").hidden = !validated;
  $("chart-training").style.height = validated ? "460px" : "300px";
  const unit = metric.unit ? ` (${metric.unit})` : "";
  draw("chart-training", traces, { showlegend: true,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 13 } },
    margin: { l: 54, r: 16, t: 34, b: 48 },
    xaxis: { title: { text: "epoch" }, anchor: validated ? "y2" : "y", rangemode: "tozero" },
    yaxis: { title: { text: "training loss" }, domain: validated ? [0.55, 1] : [0, 1] },
    ...(validated ? { yaxis2: { title: { text: plain(`validation ${metric.name}${unit}`) }, domain: [0, 0.45] } } : {}) });
}

// Small multiples: one histogram per layer, each on its own axis, drawn without Plotly.
function drawGates() {
  const found = data.gates.find((g) => g.seed === state.seed);
  if (!found) return;
  const ns = "http://www.w3.org/2000/svg";
  $("chart-gates").replaceChildren(...found.layers.map(({ name, edges, counts }) => {
    const box = document.createElement("div"), title = document.createElement("h4");
    const svg = document.createElementNS(ns, "svg"), path = document.createElementNS(ns, "path");
    const ends = document.createElement("div"), most = Math.sqrt(Math.max(1, ...counts));
    box.className = "mini";
    title.textContent = short(name);
    title.title = name;
    svg.setAttribute("viewBox", `0 0 ${counts.length} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name}: gates from ${edges[0]} to ${edges[edges.length - 1]}`);
    const steps = counts.map((c, i) => `V${100 - (100 * Math.sqrt(c)) / most}H${i + 1}`);
    path.setAttribute("d", `M0 100${steps.join("")}V100Z`);
    path.setAttribute("fill", colour(byName.has("gate") ? "gate" : data.criteria[0].name));
    svg.append(path);
    const first = edges[0], last = edges[edges.length - 1];
    const decimals = Math.min(20, Math.max(0, 1 - Math.floor(Math.log10(last - first || 1))));
    for (const edge of [first, last]) {
      const mark = document.createElement("span");
      mark.textContent = (Number(edge.toFixed(decimals)) || 0).toString().replace("-", "\u2212");
      ends.append(mark);
    }
    box.append(title, svg, ends);
    return box;
  }));
}
