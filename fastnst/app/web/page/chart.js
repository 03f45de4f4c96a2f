// The losses over the iterations, on a logarithmic axis, and where the scales begin.

import { drawn, element } from "./element.js";

const LEFT = 46, RIGHT = 10, TOP = 16, BOTTOM = 20;
const CLASSES = { style: "style-term", content: "content-term" };
const SMALLEST = 1e-3; // of the axis, at most: a term that begins at 0 would take all the height

export class Chart {
  constructor(svg, legend) {
    this.svg = svg;
    this.legend = legend;
    this.put(null);
    new ResizeObserver(() => this.draw()).observe(svg);
  }

  // Takes a curve: `points`, rows of iteration, scale, total and `terms`, up to `iterations` if they are known; or null for none.
  put(curve) {
    if (curve !== null && curve === this.curve) return;
    this.curve = curve;
    this.points = curve?.points ?? [];
    this.iterations = curve?.iterations;
    this.terms = this.points.length < 2 ? [] : curve.terms;
    const floor = this.points.reduce((most, row) => Math.max(most, row[2]), 0) * SMALLEST;
    const isVisible = (column) => this.points.some((row) => row[column] >= floor);
    const visible = this.points.length < 2 ? [] : ["total", ...this.terms].filter((_, index) => isVisible(2 + index));
    this.legend.replaceChildren(...visible.map((term) => element("span", { className: name(term) }, element("i"), term)));
    this.draw();
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    this.svg.replaceChildren();
    if (width < LEFT + RIGHT + 40 || height < 60) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const rows = this.points;
    if (rows.length < 2) {
      this.svg.append(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "The curve begins with the run."));
      return;
    }
    // As arguments of one call they would be too many after a long run.
    const values = rows.flatMap((row) => row.slice(2));
    const most = values.reduce((a, b) => Math.max(a, b));
    const least = values.filter((value) => value > 0).reduce((a, b) => Math.min(a, b), Infinity);
    const high = Math.log10(most) + 0.05;
    const low = Math.min(Math.log10(Math.max(least, most * SMALLEST)) - 0.05, high - 0.3);
    const last = Math.max(this.iterations ?? 0, rows.at(-1)[0], 1);
    const x = (iteration) => LEFT + ((width - LEFT - RIGHT) * iteration) / last;
    const y = (value) => TOP + ((height - TOP - BOTTOM) * (high - Math.log10(value))) / (high - low);
    for (const value of ticks(low, high)) {
      this.svg.append(drawn("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      this.svg.append(drawn("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    this.scales(rows, x, height);
    this.svg.append(drawn("text", { x: width - RIGHT, y: height - 6, "text-anchor": "end" }, `${last} iterations`));
    this.terms.forEach((term, index) => this.line(rows, 3 + index, name(term), x, y, 10 ** low));
    this.line(rows, 2, "total", x, y, 0);
  }

  scales(rows, x, height) {
    let before = null;
    for (const [iteration, scale] of rows) {
      if (scale === before) continue;
      if (before !== null) this.svg.append(drawn("line", { class: "scale", x1: x(iteration), x2: x(iteration), y1: TOP, y2: height - BOTTOM }));
      this.svg.append(drawn("text", { x: x(iteration) + 3, y: TOP - 4 }, `${scale} px`));
      before = scale;
    }
  }

  line(rows, column, className, x, y, floor) {
    let path = "", before = null;
    for (const row of rows) {
      if (!(row[column] >= floor)) {
        before = null;
        continue;
      }
      path += `${row[1] === before ? "L" : "M"}${x(row[0]).toFixed(1)} ${y(row[column]).toFixed(1)}`;
      before = row[1];
    }
    this.svg.append(drawn("path", { class: className, d: path }));
  }
}

const name = (term) => (term === "total" ? "total" : CLASSES[term] ?? "other-term");

// Powers of ten within the axis, with 2 and 5 where they are few.
function ticks(low, high) {
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]]) {
    const marks = [];
    for (let power = Math.floor(low); power <= high; power++)
      for (const step of steps) {
        const at = power + Math.log10(step);
        if (at > low && at < high) marks.push(step * 10 ** power);
      }
    if (marks.length >= 2) return marks.length > 5 ? marks.filter((_, index) => index % 2 === 0) : marks;
  }
  return [10 ** ((low + high) / 2)];
}

const short = (value) => (value >= 0.01 && value < 10000 ? String(Number(value.toPrecision(2))) : value.toExponential(0));
