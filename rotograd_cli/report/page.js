"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const specs = JSON.parse(document.getElementById("charts").textContent);
const views = new Map(); // by element

// colours are those of the page's style
function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const ink = colour("ink");
  const soft = colour("soft");
  const line = colour("line");
  const first = colour("c0");
  const heat = ["heat0", "heat1", "heat2"].map(colour);
  const words = {
    labelColor: soft, titleColor: soft, labelFontSize: 11, titleFontSize: 11, titleFontWeight: 400,
  };
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...words, gridColor: line, domainColor: line, tickColor: line, labelLimit: 150 },
    axisX: { grid: false, tickCount: 5 },
    axisY: { tickCount: 5 },
    legend: { ...words, labelLimit: 170 },
    rule: { color: soft },
    text: { color: ink },
    bar: { color: first },
    circle: { color: first },
    line: { color: first },
    range: {
      diverging: ["low", "zero", "high"].map(colour),
      heatmap: heat,
      ramp: heat,
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
  const rows = [];
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
