// Charts of cells and of histograms.

// The luminance of a colour and the contrast of two, by WCAG 2.2.
const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const luminance = (rgb) => rgb.map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const INKS = ["#10161b", "#ffffff"];

// The ink that reads better on the colour of a share, from 0 to 1.
function inkOn(share, stops) {
  const i = share < 0.5 ? 0 : 1, part = 2 * share - i;
  const ground = channels(stops[i]).map((c, n) => c + part * (channels(stops[i + 1])[n] - c));
  return INKS.reduce((a, b) => (contrast(channels(b), ground) > contrast(channels(a), ground) ? b : a));
}

// A long name keeps its beginning and, more of it, its end.
const shortened = (text, most) =>
  text.length <= most ? text : `${text.slice(0, Math.floor(most / 3))}\u2026${text.slice(-Math.floor((2 * most) / 3))}`;

// Numbers are of two figures, and whole where columns are too narrow for more.
function share(value, whole) {
  if (value === null) return "";
  if (value === 0) return "\u00d7";
  if (whole) return value < 0.5 ? "<1" : value.toFixed(0);
  return value < 0.05 ? "<0.1" : value < 9.95 ? value.toFixed(1) : value.toFixed(0);
}

function drawCells(chart) {
  const id = `chart-${chart.name}`, box = $(id), found = shown(chart.cells)[0];
  const columns = found.columns.map((_, i) => i), rows = chart.rows.map((_, i) => i);
  const labels = chart.rows.map((text) => shortened(text, narrow() ? 12 : 30));
  const font = narrow() ? 11 : 12.5, stops = [css("--low"), css("--mid"), css("--high")];
  const left = Math.max(...labels.map((text) => width(text, "12px"))) + 14;
  // Each number has its place: more levels than fit make the chart wider, and its box scrolls.
  const scale = narrow() ? 0 : 78, wanted = left + 8 + scale + columns.length * (narrow() ? 21 : 34);
  box.style.minWidth = `${wanted}px`;
  const whole = (Math.max(box.clientWidth, wanted) - left - 8 - scale) / columns.length < 32;
  const inks = INKS.map((ink) => ({ ink, x: [], y: [], text: [] }));
  found.values.forEach((line, y) => line.forEach((value, x) => {
    if (value === null) return;
    const one = inks.find(({ ink }) => ink === inkOn(value / 100, stops));
    one.x.push(x), one.y.push(y), one.text.push(plain(share(value, whole)));
  }));
  const legend = narrow()
    ? { orientation: "h", x: 0.5, xanchor: "center", y: 1, yanchor: "bottom", len: 0.9, title: { text: "kept (%)", side: "top" } }
    : { len: 1, title: { text: "kept (%)", side: "right" } };
  legend.title.font = { color: css("--soft"), size: 12 };
  draw(id, [
    { type: "heatmap", z: found.values, zmin: 0, zmax: 100, x: columns, y: rows, xgap: 2, ygap: 2,
      colorscale: stops.map((stop, i) => [i / 2, stop]),
      colorbar: { ...legend, thickness: 10, outlinewidth: 0, tickfont: { color: css("--soft"), size: 11.5 },
        tickvals: [0, 25, 50, 75, 100] },
      hoverinfo: "text", hovertext: found.hover },
    ...inks.map(({ ink, ...texts }) => ({ ...texts, type: "scatter", mode: "text", hoverinfo: "skip",
      textfont: { size: font, color: ink } })),
  ], {
    margin: { l: left, r: 8, t: narrow() ? 56 : 6, b: 48 },
    xaxis: { tickmode: "array", tickvals: columns, ticktext: found.columns, showgrid: false, title: { text: plain(chart.x) },
      range: [-0.5, columns.length - 0.5], tickangle: 0 },
    yaxis: { tickmode: "array", tickvals: rows, ticktext: labels.map(plain), automargin: false,
      range: [rows.length - 0.5, -0.5], showgrid: false } });
}

const SVG = "http://www.w3.org/2000/svg";

// Where a histogram begins and ends, as text.
function edgeTexts(edges) {
  const first = edges[0], last = edges[edges.length - 1];
  const decimals = Math.min(20, Math.max(0, 1 - Math.floor(Math.log10(last - first || 1))));
  return [first, last].map((edge) => (Number(edge.toFixed(decimals)) || 0).toString().replace("-", "\u2212"));
}

function outline(counts) {
  const most = Math.sqrt(Math.max(1, ...counts));
  return `M0 100${counts.map((c, i) => `V${100 - (100 * Math.sqrt(c)) / most}H${i + 1}`).join("")}V100Z`;
}

function svgElement(name, attributes, ...inside) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

const histogram = ({ style, counts }, more) =>
  svgElement("svg", { viewBox: `0 0 ${counts.length} 100`, preserveAspectRatio: "none", ...more },
    svgElement("path", { d: outline(counts), fill: colour(style) }));

// Small multiples: one histogram per layer, each on its own axis, drawn without Plotly.
function drawHistograms(chart) {
  $(`chart-${chart.name}`).replaceChildren(...shown(chart.histograms).map((found) => {
    const box = document.createElement("div"), title = document.createElement("h4");
    const ends = document.createElement("div"), texts = edgeTexts(found.edges);
    box.className = "mini";
    title.textContent = shortened(found.label, 24);
    title.title = found.name;
    for (const text of texts) {
      const mark = document.createElement("span");
      mark.textContent = text;
      ends.append(mark);
    }
    box.append(title, histogram(found, { role: "img", "aria-label": `${found.name}: from ${texts.join(" to ")}` }), ends);
    return box;
  }));
}

function drawChart(chart) {
  (chart.cells.length ? drawCells : chart.histograms.length ? drawHistograms : drawLines)(chart);
}
