// What the page hands out: the table and each chart as it is drawn, made here of what it holds.

function save(name, type, text) {
  const link = document.createElement("a"), address = URL.createObjectURL(new Blob([text], { type }));
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);  // some browsers read it late
}

// The histograms as one SVG, in the columns that the page has.
function histogramsSvg(chart) {
  const wide = 180, high = 112, across = Math.max(1, Math.floor($(`chart-${chart.name}`).clientWidth / wide));
  const found = shown(chart.histograms), columns = Math.min(across, found.length);
  const size = [columns * wide, Math.ceil(found.length / columns) * high];
  const root = svgElement("svg", { xmlns: SVG, width: size[0], height: size[1], viewBox: `0 0 ${size.join(" ")}`,
    "font-family": css("--font"), fill: css("--ink"), "font-size": 11 });
  found.forEach((each, i) => {
    const x = (i % columns) * wide + 10, y = Math.floor(i / columns) * high;
    const [first, last] = edgeTexts(each.edges);
    root.append(
      svgElement("text", { x, y: y + 18, "font-weight": 600 }, shortened(each.label, 24)),
      histogram(each, { x, y: y + 26, width: wide - 20, height: 60 }),
      svgElement("text", { x, y: y + 100 }, first),
      svgElement("text", { x: x + wide - 20, y: y + 100, "text-anchor": "end" }, last));
  });
  return new XMLSerializer().serializeToString(root);
}

async function chartSvg(chart) {
  const box = $(`chart-${chart.name}`);
  const drawn = chart.histograms.length ? histogramsSvg(chart) : await Plotly.toImage(box,
    { format: "svg", imageDataOnly: true, width: box.clientWidth, height: box.clientHeight });
  // The ground of the page, without which the letters of the dark theme are lost.
  return drawn.replace(/<svg[^>]*>/, (tag) => `${tag}<rect width="100%" height="100%" fill="${css("--card")}"/>`);
}

function button(id, text, hint, act) {
  const made = document.createElement("button");
  Object.assign(made, { id, type: "button", className: "save", textContent: text, title: hint });
  made.addEventListener("click", act);
  return made;
}

function offerDownloads() {
  $("save-here").append(button("save-results", "results.csv", "Download this table as CSV",
    () => save("results.csv", "text/csv;charset=utf-8", data.table)));
  for (const chart of data.charts) {
    const name = `${chart.name}-drawn.svg`, figure = $(`chart-${chart.name}`).closest("figure");
    figure.append(button(`save-${chart.name}`, "SVG", "Download this chart as it is drawn",
      async () => save(name, "image/svg+xml;charset=utf-8", await chartSvg(chart))));
  }
}
