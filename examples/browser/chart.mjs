/** A line chart in SVG that grows while numbers come in. */

const MARGIN = { left: 56, right: 12, top: 10, bottom: 34 };
const CLASSES = ["first", "second", "third"];
const TICK_DISTANCE = 70; // pixels between labels of the horizontal axis, at least

/** Return a new SVG element with attributes, and text if that is given. */
export function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The curves of some series over the number of the step. */
export class Chart {
  #element;
  #series;
  #scale;
  #end = 1;
  #isDue = false;

  /**
   * `series` are `{label}` in the order of the colours; `scale(values)` returns `{at, ticks, format, title}` of the
   * vertical axis: `at` maps a value to 0 (bottom) to 1 (top).
   */
  constructor(element, legend, series, scale, { dots = false } = {}) {
    this.#element = element;
    this.#series = series.map((one, index) => ({ ...one, color: CLASSES[index % CLASSES.length], points: [], dots }));
    this.#scale = scale;
    legend.replaceChildren(...this.#series.map(legendEntry));
    new ResizeObserver(() => this.redraw()).observe(element);
  }

  /** Set the step at which the horizontal axis ends. */
  set end(steps) {
    this.#end = steps;
    this.redraw();
  }

  /** Append a value to each series; what is not finite has no place. */
  add(step, values) {
    this.#series.forEach((one, index) => Number.isFinite(values[index]) && one.points.push([step, values[index]]));
    this.redraw();
  }

  /** Forget all values. */
  clear() {
    for (const one of this.#series) one.points = [];
    this.redraw();
  }

  /** Draw before the next frame, however often it is asked for until then. */
  redraw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
    });
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#element;
    const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
    const scale = this.#scale(this.#series.flatMap(({ points }) => points.map(([, value]) => value)));
    const x = (step) => MARGIN.left + (step / this.#end) * (right - MARGIN.left);
    const y = (value) => bottom - Math.min(Math.max(scale.at(value), 0), 1) * (bottom - MARGIN.top);
    const parts = [];
    for (const value of scale.ticks) {
      parts.push(
        svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) }),
        svg("text", { x: MARGIN.left - 7, y: y(value) + 4, "text-anchor": "end" }, scale.format(value)),
      );
    }
    const ticks = roundNumbers(this.#end, Math.max(Math.floor((right - MARGIN.left) / TICK_DISTANCE), 1));
    for (const step of ticks) {
      parts.push(
        svg("line", { class: "axis", x1: x(step), x2: x(step), y1: bottom, y2: bottom + 4 }),
        svg("text", { x: x(step), y: bottom + 16, "text-anchor": "middle" }, step),
      );
    }
    parts.push(
      svg("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
      svg("text", { x: (MARGIN.left + right) / 2, y: bottom + 31, "text-anchor": "middle" }, "step"),
      svg("text", { transform: `translate(11 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, scale.title),
    );
    for (const { points, color, dots } of [...this.#series].reverse()) {
      const places = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`);
      parts.push(svg("polyline", { class: `curve ${color}`, points: places.join(" ") }));
      if (dots) {
        parts.push(...points.map(([step, value]) => svg("circle", { class: `dot ${color}`, cx: x(step), cy: y(value), r: 3 })));
      }
    }
    this.#element.setAttribute("viewBox", `0 0 ${Math.max(width, 1)} ${Math.max(height, 1)}`);
    this.#element.replaceChildren(...parts);
  }
}

/** A vertical axis from 0 to a round number above all values. */
export function linearScale(title) {
  return (values) => {
    const largest = values.length ? values.reduce((a, b) => Math.max(a, b), 1e-9) : 1;
    const [, step] = roundNumbers(largest, 4);
    const ticks = Array.from({ length: Math.ceil(largest / step) + 1 }, (_, index) => index * step);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    return { title, ticks, at: (value) => value / ticks.at(-1), format: (value) => value.toFixed(digits) };
  };
}

/** A vertical axis of powers of ten around all values. */
export function logarithmicScale(title) {
  return (values) => {
    const exponents = values.filter((value) => value > 0).map((value) => Math.log10(value));
    const low = Math.floor(exponents.reduce((a, b) => Math.min(a, b), 0));
    const high = Math.max(Math.ceil(exponents.reduce((a, b) => Math.max(a, b), -Infinity)), low + 1);
    const ticks = Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index));
    return { title, ticks, at: (value) => (Math.log10(value) - low) / (high - low), format: (value) => `${Number(value.toPrecision(1))}` };
  };
}

/** A vertical axis from 0 to 100 %. */
export function percentScale(title) {
  return () => ({
    title,
    ticks: [0, 0.25, 0.5, 0.75, 1],
    at: (value) => value,
    format: (value) => `${value * 100} %`,
  });
}

/** Return about `count` multiples of 1, 2 or 5 times a power of ten, from 0 to at most `end`. */
function roundNumbers(end, count) {
  const least = end / count;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= least);
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

function legendEntry({ label, color }) {
  const entry = document.createElement("li");
  const sample = svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
  sample.append(svg("line", { class: `curve ${color}`, x1: 1, x2: 25, y1: 4, y2: 4 }));
  entry.append(sample, label);
  return entry;
}
