"use strict";
// What all charts need: data, state, theme, how figures are written, and Plotly with our looks.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { ...data.start, everything: false, log: Math.min(...data.levels) < 0.05 };
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

// How wide a text is on the screen.
function width(text, font) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${font} ${css("--font")}`;
  return pen.measureText(text).width;
}

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
    // said, for Plotly keeps the size that it drew first: the panel beside a chart changes its own
    width: $(id).clientWidth, height: $(id).clientHeight,
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
