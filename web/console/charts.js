// Rates and latencies of the last minutes, a line a node; each chart has a table that says the same in words.

import { get } from "./api.js";
import { element, write } from "./elements.js";
import { Table } from "./tables.js";

/** What the node keeps, in ms. */
const KEPT_MS = 600_000;

const HEIGHT = 208;

/** Of more nodes the summary names the lowest and the highest. */
const NAMED_MAX = 4;

/** Lines differ in colour and in dash. */
const COLOURS = {
  light: ["#1f5fbf", "#b3540a", "#1b7a43", "#8e2c8e", "#a3223a", "#0f7482"],
  dark: ["#8ab4f8", "#f2a65a", "#7bd39a", "#dd9be0", "#ff9a92", "#6fd3e0"],
};
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];

const whole = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
const tenths = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });

const CHARTS = [
  { key: "sessions", title: "Sessions", unit: "", show: whole },
  { key: "logins", title: "Logins a second", unit: "/s", show: whole },
  { key: "stanzas_received", title: "Stanzas received a second", unit: "/s", show: whole },
  { key: "stanzas_sent", title: "Stanzas sent a second", unit: "/s", show: whole },
  { key: "commits", title: "Commits a second", unit: "/s", show: whole },
  { key: "commit_p50_us", title: "Commit latency, half", unit: " ms", scale: 1e-3, show: tenths },
  { key: "commit_p99_us", title: "Commit latency, 99 %", unit: " ms", scale: 1e-3, show: tenths },
  { key: "cpu_permille", title: "Processor", unit: " %", scale: 0.1, show: tenths },
  { key: "resident_kib", title: "Memory", unit: " MiB", scale: 1 / 1024, show: whole },
];

function extremes(nodes, say) {
  const now = nodes.map(({ values }) => values.at(-1) ?? null).filter((value) => value !== null);
  return now.length === 0 ? "nothing is known" : `lowest ${say(Math.min(...now))}, highest ${say(Math.max(...now))}`;
}

const dark = matchMedia("(prefers-color-scheme: dark)");

function line(at) {
  const colours = dark.matches ? COLOURS.dark : COLOURS.light;
  return { stroke: colours[at % colours.length], dash: DASHES[at % DASHES.length] };
}

class Chart {
  constructor(kind) {
    this.kind = kind;
    this.plot = null;
    this.nodes = "";
    this.place = element("div", { class: "plot", role: "img" });
    this.now = element("span", { class: "quiet" });
    this.table = new Table(`${kind.title}, in the time shown`, [
      { head: "Node", text: (row) => row.node },
      { head: "Now", number: true, text: (row) => row.now },
      { head: "Mean", number: true, text: (row) => row.mean },
      { head: "Highest", number: true, text: (row) => row.highest },
    ], { narrow: "table" });
    this.element = element("figure", { class: "chart sheet" },
      element("figcaption", {}, element("h3", { text: kind.title }), this.now),
      this.place,
      element("details", {}, element("summary", { text: `${kind.title} as a table` }), this.table.element));
  }

  /** `nodes`: id and values of each. */
  show(times, nodes) {
    const { kind } = this;
    const scaled = nodes.map(({ id, values }) => ({ id, values: values.map((value) => (value === null ? null : value * (kind.scale ?? 1))) }));
    const say = (value) => (value === null ? "–" : `${kind.show(value)}${kind.unit}`);
    const rows = scaled.map(({ id, values }) => {
      const known = values.filter((value) => value !== null);
      const sum = known.reduce((total, value) => total + value, 0);
      return {
        node: `node ${id}`,
        now: say(values.at(-1) ?? null),
        mean: say(known.length === 0 ? null : sum / known.length),
        highest: say(known.length === 0 ? null : Math.max(...known)),
      };
    });
    this.table.show(rows, (row) => row.node);
    const summary = rows.length > NAMED_MAX ? extremes(scaled, say) : rows.map((row) => `${row.node} ${row.now}`).join(", ");
    write(this.now, summary);
    this.place.setAttribute("aria-label", `${kind.title}: now ${summary}. The table below says more.`);
    this.draw([times.map((time) => time / 1000), ...scaled.map(({ values }) => values)], scaled.map(({ id }) => id));
  }

  draw(data, ids) {
    const names = JSON.stringify(ids);
    if (this.plot === null || names !== this.nodes) {
      this.plot?.destroy();
      this.nodes = names;
      this.plot = new uPlot(this.options(ids), data, this.place);
      this.plot.root.setAttribute("aria-hidden", "true");
      return;
    }
    this.plot.setData(data);
  }

  options(ids) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1 }, font: "12px system-ui, sans-serif" };
    const { kind } = this;
    return {
      width: Math.max(this.place.clientWidth, 200),
      height: HEIGHT,
      legend: { show: false },
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_, __, highest) => [0, highest > 0 ? highest * 1.1 : 1] } },
      axes: [
        { ...axis, size: 32, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleTimeString("en-GB")), space: 80 },
        { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => `${tick.toLocaleString("en")}${kind.unit}`) },
      ],
      series: [{}, ...ids.map((id, at) => ({ label: `node ${id}`, width: 2, spanGaps: false, points: { show: false }, ...line(at) }))],
    };
  }

  resize() {
    this.plot?.setSize({ width: Math.max(this.place.clientWidth, 200), height: HEIGHT });
  }

  forget() {
    this.plot?.destroy();
    this.plot = null;
  }
}

export class ChartsView {
  constructor() {
    this.times = [];
    this.nodes = new Map();
    this.charts = CHARTS.map((kind) => new Chart(kind));
    this.legend = element("ul", { class: "legend", "aria-label": "Nodes" });
    const ranges = [[120_000, "2 minutes"], [300_000, "5 minutes"], [KEPT_MS, "10 minutes"]];
    this.range = element("select", { on: { change: () => this.show() } },
      ...ranges.map(([value, text]) => element("option", { value, text, selected: value === 300_000 })));
    this.element = element("section", { "aria-labelledby": "charts-title" },
      element("div", { class: "head" },
        element("h2", { id: "charts-title", tabIndex: -1, text: "Rates and latencies" }),
        element("label", {}, element("span", { text: "Time shown" }), this.range)),
      this.legend,
      element("div", { class: "charts" }, ...this.charts.map((chart) => chart.element)));
    this.anew = () => {
      this.charts.forEach((chart) => chart.forget());
      this.show();
    };
    dark.addEventListener("change", this.anew);
    this.watch = new ResizeObserver(() => this.charts.forEach((chart) => chart.resize()));
    this.watch.observe(this.element);
  }

  async update() {
    const after = this.times.at(-1) ?? 0;
    const report = await get(`/v1/history?after=${after}`);
    if (report.at_ms.length > 0) this.take(report);
    this.show();
  }

  /** Adds what is new, and drops what is too old. */
  take(report) {
    const known = this.times.length;
    this.times.push(...report.at_ms);
    const added = report.at_ms.length;
    const told = new Map(report.nodes.map((node) => [node.node, node]));
    for (const id of told.keys()) if (!this.nodes.has(id)) this.nodes.set(id, {});
    for (const [id, lists] of this.nodes) {
      for (const { key } of CHARTS) {
        const values = lists[key] ?? Array(known).fill(null);
        values.push(...(told.get(id)?.[key] ?? Array(added).fill(null)));
        lists[key] = values;
      }
    }
    const from = this.times.findIndex((time) => time > this.times.at(-1) - KEPT_MS);
    this.times.splice(0, from);
    for (const [id, lists] of this.nodes) {
      for (const { key } of CHARTS) lists[key].splice(0, from);
      if (CHARTS.every(({ key }) => lists[key].every((value) => value === null))) this.nodes.delete(id);
    }
  }

  show() {
    if (this.times.length === 0) return;
    const begin = this.times.at(-1) - Number(this.range.value);
    const from = this.times.findIndex((time) => time > begin);
    const times = this.times.slice(from);
    const ids = [...this.nodes.keys()].sort((a, b) => a - b);
    this.charts.forEach((chart) => {
      chart.show(times, ids.map((id) => ({ id, values: this.nodes.get(id)[chart.kind.key].slice(from) })));
    });
    const names = ids.join(" ") + dark.matches;
    if (names === this.legendOf) return;
    this.legendOf = names;
    this.legend.replaceChildren(...ids.map((id, at) => element("li", {}, sample(line(at)), `node ${id}`)));
  }

  leave() {
    this.watch.disconnect();
    dark.removeEventListener("change", this.anew);
    this.charts.forEach((chart) => chart.forget());
  }
}

/** A piece of a node's line, for the legend. */
function sample({ stroke, dash }) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const attributes = (made, values) => Object.entries(values).forEach(([name, value]) => made.setAttribute(name, value));
  attributes(svg, { width: 34, height: 10, "aria-hidden": "true" });
  const drawn = document.createElementNS(space, "line");
  attributes(drawn, { x1: 0, y1: 5, x2: 34, y2: 5, stroke, "stroke-width": 3, "stroke-dasharray": dash.join(" ") });
  svg.append(drawn);
  return svg;
}
