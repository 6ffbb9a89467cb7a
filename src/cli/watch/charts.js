// Charts: curves that grow, with zoom, smoothing and a logarithmic axis.

const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b"];
const DARK = ["#56b4e9", "#ff9d5c", "#2fd0a5", "#e7a6cb", "#f0c35e", "#9fd4f3", "#b0b0b0", "#c49a91"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const all = new Set();

/** The colour of the nth of several curves. */
export function colour(n) {
  const colours = dark.matches ? DARK : LIGHT;
  return colours[n % colours.length];
}

dark.addEventListener("change", () => all.forEach((chart) => chart.rebuild()));

/** A number in at most four digits. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

/** The exponential average of values, as TensorBoard has it: its weights sum to one from the first value on. */
function smooth(values, weight) {
  let average = 0, total = 0;
  return values.map((value) => {
    if (value === null) return null;
    average = average * weight + (1 - weight) * value;
    total = total * weight + (1 - weight);
    return average / total;
  });
}

function faint(colour) {
  return `${colour}40`;
}

/** A chart. Those with the same `group` have the cursor and the zoom in common. */
export class Chart {
  #curves = [];
  #look = { smoothing: 0, log: false };
  #plot;
  #shape = "";

  /** `x`: what the axis counts. */
  constructor(title, group, x) {
    this.x = x;
    this.group = group;
    this.node = document.createElement("div");
    this.node.className = "chart";
    const header = document.createElement("header");
    const name = document.createElement("b");
    name.textContent = title;
    this.reading = document.createElement("span");
    this.reset = this.#button("all", "Show all again", () => {
      all.forEach((chart) => chart.group === this.group && chart.#showAll());
    });
    this.reset.hidden = true;
    const larger = this.#button("⤢", `Enlarge ${title}`, () => {
      this.node.classList.toggle("wide");
      this.#fit();
    });
    header.append(name, this.reading, this.reset, larger);
    this.area = document.createElement("div");
    this.node.append(header, this.area);
    new ResizeObserver(() => this.#fit()).observe(this.node);
    all.add(this);
  }

  #button(text, label, action) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.title = label;
    button.setAttribute("aria-label", label);
    button.addEventListener("click", action);
    return button;
  }

  #size() {
    const width = Math.max(200, this.node.clientWidth - 18);
    return { width, height: this.node.classList.contains("wide") ? Math.min(520, innerHeight * 0.6) : 190 };
  }

  #fit() {
    if (this.#plot && this.node.clientWidth) this.#plot.setSize(this.#size());
  }

  /** Draws curves: { label, colour, x, y } each. */
  draw(curves, look) {
    this.#curves = curves;
    // A logarithm has no place for what is below 0, such as the loss of pretraining.
    const values = curves.flatMap(({ y }) => y);
    const log = look.log && values.every((value) => value >= 0) && values.some((value) => value > 0);
    this.#look = { ...look, log };
    const shape = JSON.stringify([curves.map((c) => [c.label, c.colour]), look.smoothing > 0, log]);
    if (shape !== this.#shape) {
      this.#shape = shape;
      this.rebuild();
      return;
    }
    const zoom = this.#zoom();
    this.#plot.setData(this.#data(), !zoom);
    if (zoom) this.#plot.setScale("x", zoom);
    this.#read();
  }

  /** Removes it. */
  remove() {
    this.#plot?.destroy();
    this.node.remove();
    all.delete(this);
  }

  #data() {
    const { smoothing, log } = this.#look;
    // null breaks a curve, what uPlot.join leaves open does not.
    const shown = (y) => (log ? y.map((value) => value || null) : y);
    const tables = this.#curves.map(({ x, y }) =>
      smoothing > 0 ? [x, shown(y), shown(smooth(y, smoothing))] : [x, shown(y)]);
    return tables.length === 1 ? tables[0] : uPlot.join(tables);
  }

  /** The part of the axis that is shown, if that is not all. */
  #zoom() {
    const x = this.#plot?.data[0] ?? [];
    const { min, max } = this.#plot?.scales.x ?? {};
    return x.length > 1 && (min > x[0] || max < x.at(-1)) ? { min, max } : null;
  }

  #showAll() {
    const x = this.#plot?.data[0] ?? [];
    if (x.length) this.#plot.setScale("x", { min: x[0], max: x.at(-1) });
  }

  /** What stands beside the title: the value below the cursor, else the last one. */
  #read() {
    const plot = this.#plot;
    this.reset.hidden = !this.#zoom();
    if (this.#curves.length !== 1) {
      this.reading.textContent = "";
      return;
    }
    const [x, ...values] = plot.data;
    const at = plot.cursor.idx ?? x.length - 1;
    const value = values.at(-1)?.[at];
    this.reading.textContent = plot.cursor.idx == null ? short(value) : `${this.x} ${short(x[at])}: ${short(value)}`;
  }

  /** Makes the plot again, as for other colours. */
  rebuild() {
    const zoom = this.#zoom();
    this.#plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const [line, quiet] = ["--line", "--quiet"].map((name) => style.getPropertyValue(name).trim());
    const { smoothing, log } = this.#look;
    const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 },
      font: "11px system-ui, sans-serif" };
    const curve = (label, stroke, width, name) => ({ label, stroke, width, class: name, spanGaps: false,
      points: { show: (plot) => plot.data[0].length < 3 }, value: (_, value) => short(value) });
    const series = this.#curves.flatMap(({ label, colour }) => smoothing > 0
      ? [curve(label, faint(colour), 1, "logged"), curve(label, colour, 1.75, "smooth")]
      : [curve(label, colour, 1.5, "plain")]);
    const options = {
      ...this.#size(),
      cursor: { drag: { x: true, y: false, dist: 6 }, sync: { key: this.group, scales: ["x", null] }, y: false,
        // Of another run the nearest step is meant, if it is near.
        hover: { prox: 20 } },
      legend: { show: this.#curves.length > 1, live: true },
      scales: {
        x: { time: false, range: (_, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) },
        y: log ? { distr: 3 } : {},
      },
      axes: [
        { ...axis, size: 28, space: 60, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
        { ...axis, size: 54, space: 32, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
      ],
      series: [{ label: this.x, value: (_, value) => short(value) }, ...series],
      hooks: { setCursor: [() => this.#read()], setScale: [() => this.#read()] },
    };
    this.#plot = new uPlot(options, [[]], this.area);
    this.#plot.setData(this.#data());
    if (zoom) this.#plot.setScale("x", zoom);
    fingers(this.#plot.over);
    this.#read();
  }
}

/** A finger that moves sideways marks a part of the axis, as the mouse does. */
function fingers(over) {
  const pass = (type, target) => (event) => {
    if (event.pointerType !== "touch") return;
    const { clientX, clientY } = event;
    // uPlot leaves out what does not move.
    const moved = { movementX: 1, movementY: 1 };
    target.dispatchEvent(new MouseEvent(type, { clientX, clientY, ...moved, button: 0, bubbles: true, view: window }));
  };
  over.addEventListener("pointerdown", pass("mousedown", over));
  over.addEventListener("pointermove", pass("mousemove", over));
  over.addEventListener("pointerup", pass("mouseup", document));
  over.addEventListener("pointercancel", pass("mouseup", document));
}
