// Charts of lines and points: over sparsity, over epochs, over what was measured.

// Where a keep ratio lies on the sparsity axis, from 0 (uncut) to 100 (the right end). The
// logarithmic scale gives each halving of the weights the same width.
const least = Math.min(...data.levels);
const at = (keep) => (state.log ? (100 * Math.log(keep)) / Math.log(least * 0.9) : 100 * (1 - keep));
const TICKS = [0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99];

function sparsityAxis() {
  const even = narrow() ? [0, 25, 50, 75, 100] : [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
  const ticks = state.log ? TICKS.filter((t) => 1 - t / 100 >= 0.95 * least) : even;
  return { range: [-2.5, 101], tickvals: ticks.map((t) => at(1 - t / 100)), ticktext: ticks };
}

// From 0; or logarithmic with 1, 2 and 5 of each decade, written out.
function measuredAxis(chart, series) {
  const values = series.flatMap((s) => s.x);
  if (!chart.logarithmic) return { range: [0, 1.05 * Math.max(...values, 1e-9)] };
  const low = Math.min(...values), high = Math.max(...values), ticks = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade++)
    ticks.push(...[1, 2, 5].map((digit) => Number(`${digit}e${decade}`)));
  const room = 0.06 * Math.log10(high / low) + 0.02;
  return { type: "log", tickvals: ticks, ticktext: ticks.map((t) => t.toLocaleString("en", { maximumSignificantDigits: 3 })),
    range: [Math.log10(low) - room, Math.log10(high) + room] };
}

// Labels at the ends of lines, moved apart where they would lie over each other. One that ends
// beyond the scale stands at its edge.
function endLabels(ends, range, height) {
  const gap = (17 / height) * (range[1] - range[0]);
  const inside = (y) => Math.min(Math.max(y, range[0]), range[1]);
  const sorted = [...ends].sort((a, b) => a.y - b.y);
  sorted.forEach((end, i) => {
    end.at = i ? Math.max(inside(end.y), sorted[i - 1].at + gap) : inside(end.y);
  });
  for (let i = sorted.length - 1, top = range[1]; i >= 0; top = sorted[i].at - gap, i--)
    sorted[i].at = Math.min(sorted[i].at, top);
  return sorted.map((end) => ({
    x: end.x, xanchor: "left", xshift: 9, y: end.at, yanchor: "middle",
    text: `<b>${plain(end.name)}</b>${end.y === inside(end.y) ? "" : end.y < range[0] ? " \u25be" : " \u25b4"}`,
    showarrow: false, font: { color: end.colour, size: 12.5 },
    bgcolor: faded(css("--card"), 0.7), borderpad: 1,
  }));
}

// Room to the right of the plot, so that no label of `ends` is cut off.
function labelRoom(id, ends) {
  const inside = ($(id).clientWidth - 130) / 103.5;
  return Math.max(16, ...ends.map(({ name, x }) => width(`${name} \u25be`, "bold 13px") + 16 - (101 - x) * inside));
}

function spread(values, share = 0.06) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * share;
  return [low - room, high + room];
}

// The values that a chart shows: those near a line, or all of them.
function valueRange(chart, series, bands) {
  const near = bands.find((b) => b.near.length)?.near;
  if (near && !state.everything) return near;
  const values = series.flatMap((s) => s.y.flatMap((v) => [mean(v), v?.low, v?.high]))
    .filter((v) => typeof v === "number");
  for (const { axis, start, end } of bands) if (axis === "y") values.push(start, end, 2 * end - start);
  if (!values.length) return [0, 1];
  const range = spread(values);
  // A wide interval of few seeds must not squeeze the curve: no share lies outside 0 to 100.
  return chart.share ? [Math.max(range[0], -2), Math.min(range[1], 102)] : range;
}

// The points that lie beyond a range, as arrows at its edge; those at one place are stacked.
function drawBeyond(series, place, range, height) {
  const step = (11 / height) * (range[1] - range[0]), taken = new Map(), traces = [];
  for (const s of series) {
    const x = [], y = [], symbol = [], at = [];
    s.y.map(mean).forEach((value, i) => {
      if (typeof value !== "number" || (value >= range[0] && value <= range[1])) return;
      const below = value < range[0], key = `${below}${s.x[i]}`, depth = taken.get(key) ?? 0;
      taken.set(key, depth + 1);
      at.push(i), x.push(place(s)(s.x[i])), symbol.push(below ? "triangle-down" : "triangle-up");
      y.push(below ? range[0] + (depth + 0.5) * step : range[1] - (depth + 0.5) * step);
    });
    if (at.length) traces.push({ x, y, mode: "markers", showlegend: false, cliponaxis: false,
      marker: { color: colour(s.style), size: 9, symbol }, hoverinfo: "text",
      hovertext: at.map((i) => s.hover[i]), customdata: at.map((i) => [s.pick, s.x[i]]) });
  }
  return traces;
}

// Lines of text that name what lies beyond a range, and from where to where.
function beyond(series, range, room) {
  const digits = Math.min(Math.max(1 - Math.floor(Math.log10(range[1] - range[0])), 0), 12), found = new Map();
  for (const s of series) for (const value of s.y.map(mean)) {
    if (typeof value !== "number" || (value >= range[0] && value <= range[1])) continue;
    const arrow = value < range[0] ? "\u25be" : "\u25b4", key = arrow + s.name;
    if (!found.has(key)) found.set(key, { arrow, name: s.name, tint: colour(s.style), values: [] });
    found.get(key).values.push(value);
  }
  const lines = [];
  let used = room + 1;
  for (const { arrow, name, tint, values } of found.values()) {
    const [low, high] = [Math.min(...values), Math.max(...values)]
      .map((v) => v.toFixed(digits).replace("-", "\u2212"));
    const range = low === high ? low : Math.min(...values) < 0 ? `${low} to ${high}` : `${low}\u2013${high}`;
    const item = ` ${name} ${arrow} ${range}`, wide = width(item, "12px") + 12;
    if (used + wide > room) {
      if (!lines.length && width("off the scale:", "12px") + wide <= room) lines.push("off the scale:");
      else lines.push(...(lines.length ? [""] : ["off the scale:", ""]));
      used = width(lines[lines.length - 1], "12px");
    }
    lines[lines.length - 1] += ` <span style="color:${tint}">${plain(item.trim())}</span>&nbsp;&nbsp;`;
    used += wide;
  }
  return lines.map((line) => line.replace(/(&nbsp;)+$/, ""));
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
  // above the plot, where no line can cross it
  for (const text of label.slice(0, 1)) annotations.push({ x: at(start), xanchor: "left", yref: "paper",
    y: 1, yanchor: "bottom", showarrow: false, text: plain(text), font: { color: tint, size: 12 } });
}

function drawSeries(s, place, panel) {
  const tint = colour(s.style), symbol = s.style.plotly, out = s.pick.criterion && chosen(s.pick);
  const axes = panel ? { xaxis: `x${panel + 1}`, yaxis: `y${panel + 1}` } : {};
  const x = s.x.map(place), y = s.y.map(mean), traces = [];
  const low = s.y.map((v, i) => v?.low ?? y[i]), high = s.y.map((v, i) => v?.high ?? y[i]);
  if (s.shaded) {
    const bounded = y.map((_, i) => i).filter((i) => s.y[i].low !== null), back = [...bounded].reverse();
    traces.push({ hoverinfo: "skip", mode: "lines", fill: "toself", line: { width: 0 },
      fillcolor: faded(tint, 0.15), x: [...bounded, ...back].map((i) => x[i]),
      y: [...bounded.map((i) => high[i]), ...back.map((i) => low[i])] });
  }
  traces.push({ x, y, ...axes, name: plain(s.name), legendgroup: s.name,
    mode: x.length === 1 ? "markers" : symbol ? "lines+markers" : "lines", opacity: symbol ? 1 : 0.85,
    line: { color: tint, width: out ? 2.6 : s.shaded ? 1.8 : 1.6 },
    error_y: { type: "data", symmetric: false, visible: s.y.some((v) => v?.mean !== undefined), array: high.map((v, i) => v - y[i]),
      arrayminus: low.map((v, i) => y[i] - v), color: tint, thickness: s.shaded ? 1.2 : 1.4, width: 3 },
    marker: { symbol: symbol || "circle", size: out ? 9 : symbol ? 8 : 6,
      line: { color: tint, width: s.hollow.length ? 1.8 : 0 },
      color: s.hollow.length ? s.hollow.map((h) => (h ? css("--card") : tint)) : tint },
    customdata: s.x.map((keep) => [s.pick, keep]), hoverinfo: "text", hovertext: s.hover });
  return traces;
}

// Sparsities beside points, each at the first place where nothing is; without such, only the hover
// has it.
function pointLabels(series, layout, room) {
  const [x, y] = [layout.xaxis, layout.yaxis], log = x.type === "log";
  const across = room[0] / (x.range[1] - x.range[0]), up = room[1] / (y.range[1] - y.range[0]);
  const all = series.flatMap((s) => s.x.map((at, i) => (
    { x: log ? Math.log10(at) : at, y: mean(s.y[i]), text: s.text[i], tint: colour(s.style) })))
    .filter((p) => p.y >= y.range[0] && p.y <= y.range[1]);
  const taken = all.map((p) => [p.x * across, p.y * up, 10, 10]);
  const free = (box) => taken.every(([x, y, w, h]) =>
    Math.abs(x - box[0]) > (w + box[2]) / 2 || Math.abs(y - box[1]) > (h + box[3]) / 2);
  return all.filter((p) => p.text).flatMap((p) => {
    const size = [width(p.text, "11px") + 4, 13];
    const found = [[0, 14], [0, -14], [size[0] / 2 + 9, 0], [-size[0] / 2 - 9, 0]]
      .find(([dx, dy]) => free([p.x * across + dx, p.y * up + dy, ...size]));
    if (!found) return [];
    taken.push([p.x * across + found[0], p.y * up + found[1], ...size]);
    return [{ x: p.x, y: p.y, xshift: found[0], yshift: found[1], text: plain(p.text), showarrow: false,
      font: { color: p.tint, size: 11 }, bgcolor: faded(css("--card"), 0.75), borderpad: 0 }];
  });
}

// One y axis a panel: side by side, or one under the other where there is no room for that.
function panelAxes(chart, layout, own) {
  const panels = chart.y.length, beside = !narrow(), gap = beside ? 0.1 : 0.2;
  const share = (1 - gap * (panels - 1)) / panels;
  chart.y.forEach((title, i) => {
    const end = i ? i + 1 : "", start = i * (share + gap);
    const domain = [start, Math.min(start + share, 1)], whole = [0, 1];
    const below = [Math.max(1 - start - share, 0), 1 - start];
    layout[`xaxis${end}`] = { title: { text: plain(chart.x) }, anchor: `y${end}`, domain: beside ? domain : whole, ...own };
    layout[`yaxis${end}`] = { title: { text: plain(title) }, anchor: `x${end}`, domain: beside ? whole : below };
  });
  if (panels > 1) $(`chart-${chart.name}`).style.height = `${beside ? chart.height : chart.height * 0.85 * panels}px`;
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
  const place = (s) => (x) => (sparse ? at(x) + s.shift : x);
  const traces = order.flatMap((s) => drawSeries(s, place(s), s.panel));
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
  const paper = [];
  for (const b of bands) if (b.axis === "y" && b.label.length)
    (sparse ? ends : paper).push({ name: text(b.label), x: 101, y: b.end, colour: colour(b.style) });
  if (sparse && !last.size) annotations.push({ xref: "paper", yref: "paper", x: 0.5, y: 0.5,
    text: "no trial yet", showarrow: false, font: { color: css("--soft"), size: 14 } });
  const above = sparse ? (bands.some((b) => b.axis === "x") ? 24 : 14) : 34;
  const layout = { shapes, annotations, showlegend: !sparse,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 13 } },
    margin: { l: 54, r: 16, t: above, b: 48 } };
  // on a phone many names stand one under the other, which must not cost the plot its height
  if (!sparse && chart.y.length === 1) $(id).style.height = `${chart.height + (narrow() && named.size > 4 ? 19 * named.size - 60 : 0)}px`;
  panelAxes(chart, layout, sparse ? sparsityAxis() : measuredAxis(chart, series));
  if (sparse || bands.length) {
    const range = layout.yaxis.range = valueRange(chart, series, bands);
    if (sparse) layout.margin.r = labelRoom(id, ends);
    else for (const { name } of paper) layout.margin.r = Math.max(layout.margin.r, width(name, "bold 13px") + 14);
    const off = beyond(series, range, $(id).clientWidth - 78);
    layout.margin.b += 17 * off.length;
    if (off.length) annotations.push({ xref: "paper", yref: "paper", x: 0, y: 0, xanchor: "left", yanchor: "top",
      yshift: -46, align: "left", showarrow: false, text: off.join("<br>"), font: { size: 12, color: css("--soft") } });
    const inside = $(id).clientHeight - layout.margin.t - layout.margin.b;
    traces.push(...drawBeyond(series, place, range, inside));
    annotations.push(...endLabels(ends, range, inside), ...pointLabels(series, layout, [$(id).clientWidth - 70 - layout.margin.r, inside]),
      ...endLabels(paper, range, inside).map((label) => ({ ...label, xref: "paper", x: 1, xshift: 4 })));
  }
  draw(id, traces, layout);
}
