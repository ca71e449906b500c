"use strict";
// The charts: each function draws one kind, from its data, the state and the theme.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { ...data.start, zoom: false, log: Math.min(...data.levels) < 0.05 };
const metric = data.metric;

const $ = (id) => document.getElementById(id);
const dark = () => document.documentElement.dataset.theme === "dark";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (style) => (dark() ? style.dark : style.light);
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

const rowOf = (criterion, recovery, keep) =>
  data.rows.find((r) => r.criterion === criterion && r.recovery === recovery && r.keep === keep);
const chosen = (part) => Object.entries(part).every(([name, value]) => state[name] === value);
const mean = (value) => value?.mean ?? value;
const shown = (parts) => parts.filter((part) => chosen(part.when));

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
// Where a keep ratio lies on the sparsity axis, from 0 (dense) to 100 (the right end). The
// logarithmic scale gives each halving of the weights the same width.
const least = Math.min(...data.levels);
const at = (keep) => (state.log ? (100 * Math.log(keep)) / Math.log(least * 0.9) : 100 * (1 - keep));
const TICKS = [0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99];


function sparsityAxis() {
  const even = narrow() ? [0, 25, 50, 75, 100] : [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
  const ticks = state.log ? TICKS.filter((t) => 1 - t / 100 >= 0.95 * least) : even;
  return { range: [-2.5, 101], tickvals: ticks.map((t) => at(1 - t / 100)), ticktext: ticks };
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

// The values that a chart over sparsity shows: all of them, or those near a line.
function valueRange(chart, series, bands) {
  if (state.zoom && bands.some((b) => b.near.length)) return bands.find((b) => b.near.length).near;
  const values = series.flatMap((s) => s.y.flatMap((v) => [mean(v), v?.low, v?.high]))
    .filter((v) => typeof v === "number");
  for (const { axis, start, end } of bands) if (axis === "y") values.push(start, end, 2 * end - start);
  if (!values.length) return [0, 1];
  const range = spread(values);
  // A wide interval of few seeds must not squeeze the curve: no share lies outside 0 to 100.
  return chart.share ? [Math.max(range[0], -2), Math.min(range[1], 102)] : range;
}

function drawBand({ axis, start, end, style, label }, shapes, annotations) {
  const tint = colour(style);
  if (axis === "y") {
    shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: start, y1: end, layer: "below",
      fillcolor: faded(tint, 0.13), line: { width: 0 } });
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: end, y1: end, layer: "below",
      line: { color: tint, width: 1.2 } });
    return;
  }
  shapes.push({ type: "rect", yref: "paper", y0: 0, y1: 1, x0: at(start), x1: at(end), layer: "below",
    fillcolor: faded(tint, dark() ? 0.13 : 0.08), line: { width: 0 } });
  const top = !metric.higher_is_better;  // the curves begin at the other end
  for (const text of label.slice(0, 1)) annotations.push({ x: at(start), xanchor: "left", yref: "paper",
    y: top ? 1 : 0, yanchor: top ? "top" : "bottom", showarrow: false, text: plain(text),
    font: { color: tint, size: 12 } });
}

function drawSeries(s, place, axis) {
  const tint = colour(s.style), symbol = s.style.plotly, out = s.pick.criterion && chosen(s.pick);
  const x = s.x.map(place), y = s.y.map(mean), traces = [];
  const low = s.y.map((v, i) => v?.low ?? y[i]), high = s.y.map((v, i) => v?.high ?? y[i]);
  if (s.shaded) {
    const bounded = y.map((_, i) => i).filter((i) => s.y[i].low !== null), back = [...bounded].reverse();
    traces.push({ hoverinfo: "skip", mode: "lines", fill: "toself", line: { width: 0 },
      fillcolor: faded(tint, 0.15), x: [...bounded, ...back].map((i) => x[i]),
      y: [...bounded.map((i) => high[i]), ...back.map((i) => low[i])] });
  }
  traces.push({ x, y, yaxis: axis, name: plain(s.name), legendgroup: s.name,
    mode: x.length === 1 ? "markers" : symbol ? "lines+markers" : "lines", opacity: symbol ? 1 : 0.85,
    line: { color: tint, width: out ? 2.6 : s.shaded ? 1.8 : 1.6 },
    error_y: { type: "data", symmetric: false, visible: s.y.some((v) => v?.mean !== undefined), array: high.map((v, i) => v - y[i]),
      arrayminus: low.map((v, i) => y[i] - v), color: tint, thickness: s.shaded ? 1.2 : 1.4, width: 3 },
    marker: { symbol: symbol || "circle", size: out ? 9 : symbol ? 8 : 6, line: { color: tint, width: s.shaded ? 1.8 : 0 },
      color: s.hollow.length ? s.hollow.map((h) => (h ? css("--card") : tint)) : tint },
    customdata: s.x.map((keep) => [s.pick, keep]), hoverinfo: "text", hovertext: s.hover });
  return traces;
}

function drawLines(chart) {
  const id = `chart-${chart.name}`, sparse = chart.levels.length > 0;
  const series = shown(chart.series), bands = shown(chart.bands);
  const shapes = [], annotations = [], ends = [], named = new Set();
  for (const band of bands) drawBand(band, shapes, annotations);
  if (chart.cursor) {
    const level = at(data.levels[state.level]);
    shapes.push({ type: "line", x0: level, x1: level, yref: "paper", y0: 0, y1: 1, layer: "below",
      line: { color: css("--soft"), width: 1, dash: "dot" } });
  }
  // The first lies over the others, but for the one that is chosen.
  const order = series.some((s) => s.pick.criterion)
    ? [...series].reverse().sort((a, b) => chosen(a.pick) - chosen(b.pick)) : series;
  const traces = order.flatMap((s) => drawSeries(
    s, (x) => (sparse ? at(x) + s.shift : x), s.panel ? `y${s.panel + 1}` : "y"));
  for (const trace of traces) {
    trace.showlegend = !named.has(trace.name) && trace.name !== undefined;
    named.add(trace.name);
  }
  const text = (label) => label[narrow() ? label.length - 1 : 0];
  const beside = Math.max(...series.map((s) => s.shift), 0);
  const last = new Map(series.filter((s) => s.label.length).map((s) => [s.name, s]));
  for (const s of last.values())
    ends.push({ name: text(s.label), x: at(s.x[s.x.length - 1]) + beside, y: mean(s.y[s.y.length - 1]), colour: colour(s.style) });
  // outside of the plot, moved apart from the others: inside, curves that end near it cross it
  for (const b of bands) if (b.axis === "y" && b.label.length)
    ends.push({ name: text(b.label), x: 101, y: b.end, colour: colour(b.style) });
  if (sparse && !last.size) annotations.push({ xref: "paper", yref: "paper", x: 0.5, y: 0.5,
    text: "no trial yet", showarrow: false, font: { color: css("--soft"), size: 14 } });
  const layout = { shapes, annotations, showlegend: !sparse,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 13 } },
    margin: { l: 54, r: 16, t: sparse ? 14 : 34, b: 48 } };
  const high = 1.1 / chart.y.length - 0.1;  // of a panel
  chart.y.forEach((title, i) => {
    const top = 1 - i * (high + 0.1);
    layout[i ? `yaxis${i + 1}` : "yaxis"] = { title: { text: plain(title) }, domain: [Math.max(top - high, 0), top] };
  });
  layout.xaxis = { title: { text: plain(chart.x) }, anchor: chart.y.length > 1 ? `y${chart.y.length}` : "y",
    ...(sparse ? sparsityAxis() : { rangemode: "tozero" }) };
  if (sparse) {
    layout.yaxis.range = valueRange(chart, series, bands);
    annotations.push(...endLabels(ends, layout.yaxis.range, $(id).clientHeight - 62));
    layout.margin.r = labelRoom(id, ends);
  }
  draw(id, traces, layout);
}

function drawCells(chart) {
  const id = `chart-${chart.name}`, found = shown(chart.cells)[0];
  const labels = chart.rows.map((text) => (narrow() && text.length > 14 ? "\u2026" + text.slice(-13) : text));
  const columns = found.columns.map((_, i) => i), rows = chart.rows.map((_, i) => i);
  const written = columns.length <= (narrow() ? 5 : 14);
  const text = found.values.map((line) => line.map((v) =>
    v === null ? "" : v === 0 ? "\u00d7" : written ? (v < 0.05 ? "&lt;0.1" : v < 9.95 ? v.toFixed(1) : v.toFixed(0)) : ""));
  draw(id, [{ type: "heatmap", z: found.values, text, texttemplate: "%{text}", zmin: 0, zmax: 100,
    x: columns, y: rows, xgap: 2, ygap: 2, textfont: { size: 11.5 },
    colorscale: [[0, css("--low")], [0.5, css("--mid")], [1, css("--high")]],
    colorbar: { title: { text: "kept (%)", side: "right", font: { color: css("--soft"), size: 12 } },
      thickness: 10, outlinewidth: 0, tickfont: { color: css("--soft"), size: 11 }, len: 1 },
    showscale: !narrow(), hoverinfo: "text", hovertext: found.hover }],
  { margin: { l: 40, r: 8, t: 6, b: 48 },
    xaxis: { tickmode: "array", tickvals: columns, ticktext: found.columns, showgrid: false, title: { text: plain(chart.x) } },
    yaxis: { tickmode: "array", tickvals: rows, ticktext: labels.map(plain),
      range: [rows.length - 0.5, -0.5], showgrid: false } });
}

// Small multiples: one histogram per layer, each on its own axis, drawn without Plotly.
function drawHistograms(chart) {
  const ns = "http://www.w3.org/2000/svg";
  $(`chart-${chart.name}`).replaceChildren(...shown(chart.histograms).map(({ name, label, style, edges, counts }) => {
    const box = document.createElement("div"), title = document.createElement("h4");
    const svg = document.createElementNS(ns, "svg"), path = document.createElementNS(ns, "path");
    const ends = document.createElement("div"), most = Math.sqrt(Math.max(1, ...counts));
    const first = edges[0], last = edges[edges.length - 1];
    box.className = "mini";
    title.textContent = label;
    title.title = name;
    svg.setAttribute("viewBox", `0 0 ${counts.length} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name}: from ${first} to ${last}`);
    const steps = counts.map((c, i) => `V${100 - (100 * Math.sqrt(c)) / most}H${i + 1}`);
    path.setAttribute("d", `M0 100${steps.join("")}V100Z`);
    path.setAttribute("fill", colour(style));
    svg.append(path);
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

function drawChart(chart) {
  (chart.cells.length ? drawCells : chart.histograms.length ? drawHistograms : drawLines)(chart);
}
