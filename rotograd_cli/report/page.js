"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const specs = JSON.parse(document.getElementById("charts").textContent);
const views = new Map(); // by element

function theme() {
  const ink = dark.matches ? "#c3cad6" : "#3d4653";
  const line = dark.matches ? "#2c323d" : "#e2e5ea";
  const axis = {
    labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
    labelFontSize: 11, titleFontSize: 11, titleFontWeight: 400, labelLimit: 150,
  };
  return {
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif",
    view: { stroke: null },
    axis, axisX: { grid: false, tickCount: 5 }, axisY: { tickCount: 5 },
    legend: { labelColor: ink, titleColor: ink, labelFontSize: 11, titleFontSize: 11, titleFontWeight: 400, labelLimit: 170 },
    rule: { color: ink }, text: { color: ink },
    bar: { color: dark.matches ? "#5a9bd5" : "#2f6fb2" },
    circle: { color: dark.matches ? "#5a9bd5" : "#2f6fb2" },
    line: { color: dark.matches ? "#5a9bd5" : "#2f6fb2" },
    range: {
      // Okabe and Ito's colours, the black one replaced; told apart by colour-blind readers too
      category: dark.matches
        ? ["#56b4e9", "#e69f00", "#2fbf97", "#e88ac4", "#f0e442", "#ff7f50", "#8f9bff", "#b0b7c3", "#9c755f", "#c7e9b4"]
        : ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7a5fc0", "#7f7f7f", "#8c564b", "#b8a800"],
      diverging: dark.matches ? ["#e0654f", "#2a303b", "#4f9fe0"] : ["#c8452f", "#f4f4f2", "#2a6fb0"],
      heatmap: dark.matches ? ["#1f2530", "#2f6fa8", "#9fd3ff"] : ["#f1f5fa", "#6aa3d5", "#0b3c6f"],
      ramp: dark.matches ? ["#1f2530", "#2f6fa8", "#9fd3ff"] : ["#f1f5fa", "#6aa3d5", "#0b3c6f"],
    },
  };
}

async function draw(element) {
  const options = { actions: false, renderer: "svg", config: theme() };
  const result = await vegaEmbed(element, structuredClone(specs[element.dataset.chart]), options);
  views.get(element)?.finalize();
  views.set(element, result);
}

// cosine matrices over time
const conflicts = document.getElementById("conflicts");
const data = conflicts && JSON.parse(conflicts.textContent);

function cells(values) {
  const rows = data.tasks.map((task) => ({ a: task, b: task, cosine: 1 }));
  let pair = 0;
  for (let a = 0; a < data.tasks.length; a++) {
    for (let b = a + 1; b < data.tasks.length; b++, pair++) {
      if (values[pair] === null) continue;
      const cosine = values[pair] / 100;
      rows.push({ a: data.tasks[a], b: data.tasks[b], cosine }, { a: data.tasks[b], b: data.tasks[a], cosine });
    }
  }
  return rows;
}

async function showFrame() {
  const frame = Number(document.getElementById("frame").value);
  document.getElementById("frame-step").textContent = `step ${data.steps[frame].toLocaleString("en")}`;
  for (const element of document.querySelectorAll("[data-matrix]")) {
    const chart = element.querySelector("[data-chart]");
    const view = views.get(chart)?.view;
    if (!view) continue;
    const rows = cells(data[element.dataset.matrix][frame]);
    await view.data("cells", rows).runAsync();
  }
}

async function drawAll() {
  for (const element of document.querySelectorAll("[data-chart]")) await draw(element);
  if (data) await showFrame();
}

if (data) {
  const slider = document.getElementById("frame");
  const button = document.getElementById("play");
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  slider.addEventListener("input", showFrame);
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (slider.value === slider.max) slider.value = 0;
    button.textContent = "Stop";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      showFrame();
      if (slider.value === slider.max) stop();
    }, 350);
  });
}
dark.addEventListener("change", drawAll);
await drawAll();
document.documentElement.dataset.ready = "true";
