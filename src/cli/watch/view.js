// A run on the page, with others over its curves.

import { Chart, colour } from "./charts.js";
import { $, node, plain } from "./dom.js";
import { fraction, left, progressWords } from "./list.js";
import { go, run, state, wanted } from "./state.js";
import { address, ask } from "./store.js";

/** How many phases are open when a run is: more are opened by a click. */
const OPEN_PHASES = 3;
/** Columns of metrics that are shown of lines without steps. */
const MOST_COLUMNS = 12;

/** One run's view: what of it is on the page. */
export class View {
  constructor(name) {
    this.name = name;
    this.charts = new Map();
    this.phases = new Map();
    this.machines = new Map();
    this.pictures = new Map();
    this.sections = "";
    for (const id of ["phases", "log", "sections"]) $(id).replaceChildren();
    $("machine").lastElementChild.replaceChildren();
    $("pictures").querySelector(".thumbnails").replaceChildren();
    for (const id of ["pictures", "machine"]) $(id).hidden = true;
  }

  remove() {
    for (const charts of [this.charts, this.machines]) charts.forEach((chart) => chart.remove());
  }

  showHead(details) {
    $("list").hidden = true;
    $("run").hidden = false;
    $("back").hidden = state.known.is_run;
    $("name").textContent = plain(details.name);
    $("recipe").textContent = plain(details.recipe || "unknown recipe");
    $("state").textContent = plain(details.state);
    $("report").href = address("report", { run: this.name });
    $("failure").hidden = !details.failure;
    $("failure").textContent = plain(details.failure ?? "");
    const part = fraction(details.progress);
    $("progress").hidden = !progressWords(details);
    const bar = $("progress").firstElementChild;
    bar.hidden = part === null;
    bar.value = part ?? 0;
    $("progress").lastElementChild.textContent =
      plain([progressWords(details), left(details)].filter(Boolean).join(" · "));
    const percent = details.live && part !== null ? `${Math.floor(100 * part)} % ` : "";
    document.title = plain(`${percent}${details.name}`);
  }

  /** The checkboxes of the other runs. */
  showOthers(others) {
    const names = state.known.runs.map((brief) => brief.name).filter((name) => name !== this.name);
    const shape = JSON.stringify([names, others]);
    $("others").hidden = names.length === 0;
    if (this.othersShape === shape) return;
    this.othersShape = shape;
    const labels = names.map((name) => {
      const box = node("input", { type: "checkbox" });
      box.checked = others.includes(name);
      box.addEventListener("change", () => {
        const now = wanted().others.filter((other) => other !== name);
        go(this.name, box.checked ? [...now, name] : now);
      });
      const swatch = node("span", { class: "swatch" });
      if (box.checked) swatch.style.background = colour(others.indexOf(name) + 1);
      return node("label", {}, box, swatch, name);
    });
    $("others").lastElementChild.replaceChildren(...labels);
  }

  /** The folding part of a phase. */
  phase(name, isNewest) {
    if (!this.phases.has(name)) {
      const note = node("span", { class: "note" });
      const body = node("div");
      const details = node("details", { class: "phase" }, node("summary", {}, name, note), body);
      details.open = this.phases.size < OPEN_PHASES || isNewest;
      details.addEventListener("toggle", () => this.showCurves());
      $("phases").append(details);
      this.phases.set(name, { details, note, body });
    }
    return this.phases.get(name);
  }

  showCurves() {
    const shown = [this.name, ...wanted().others].map(run);
    const names = [...new Set(shown.flatMap((one) => [...one.phases.keys()]))];
    for (const [name, phase] of this.phases) {
      if (names.includes(name)) continue;
      phase.details.remove();
      this.phases.delete(name);
    }
    const keep = new Set();
    for (const name of names) {
      const { details, note, body } = this.phase(name, name === names.at(-1));
      const tables = shown.map((one) => one.phases.get(name)?.table);
      const steps = tables[0]?.x.at(-1);
      note.textContent = steps === undefined ? "" : `step ${steps}`;
      if (!details.open) continue;
      this.showCharts(name, shown, body, keep);
      this.showLines(shown[0].phases.get(name)?.lines ?? [], body);
    }
    for (const [key, chart] of this.charts) {
      if (keep.has(key)) continue;
      chart.remove();
      this.charts.delete(key);
    }
    $("how").hidden = this.charts.size === 0;
    if (names.length === 0) $("phases").replaceChildren(node("p", { class: "note" }, "Nothing has been logged yet."));
    else $("phases").querySelector(":scope > p")?.remove();
  }

  /** The charts of a phase, the known metrics first. */
  showCharts(phase, shown, body, keep) {
    const look = { smoothing: Number($("smoothing").value), log: $("logarithmic").checked };
    const place = (name) => {
      const at = state.known.titles.findIndex((title) => title[0] === name);
      return at < 0 ? state.known.titles.length : at;
    };
    const columns = new Set(shown.flatMap((one) => [...(one.phases.get(phase)?.table.columns.keys() ?? [])]));
    const metrics = [...columns].sort((a, b) => place(a) - place(b));
    let grid = body.querySelector(":scope > .live");
    if (!grid && metrics.length) body.prepend(grid = node("div", { class: "live" }));
    for (const metric of metrics) {
      const key = JSON.stringify([phase, metric]);
      keep.add(key);
      if (!this.charts.has(key)) {
        const title = state.known.titles.find((one) => one[0] === metric)?.[1] ?? metric;
        this.charts.set(key, new Chart(plain(title), `phase ${phase}`, "step"));
        grid.append(this.charts.get(key).node);
      }
      const curves = shown.flatMap((one, n) => {
        const table = one.phases.get(phase)?.table;
        if (!table?.columns.has(metric)) return [];
        const [x, y] = table.points(metric);
        return [{ label: plain(one.name), colour: colour(n), x, y }];
      });
      this.charts.get(key).draw(curves, look);
    }
  }

  /** Lines without steps, such as those of an evaluation. */
  showLines(lines, body) {
    let table = body.querySelector(":scope > .scroll");
    if (!lines.length) return table?.remove();
    if (!table) body.append(table = node("div", { class: "scroll" }));
    if (table.last === lines.at(-1)) return;              // of many, only the newest are kept
    table.last = lines.at(-1);
    const columns = [...new Set(lines.flatMap((line) => Object.keys(line)))]
      .filter((name) => name !== "phase").slice(0, MOST_COLUMNS);
    const cell = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
    const row = (line) => node("tr", {}, ...columns.map((name) =>
      node("td", { class: typeof line[name] === "number" ? "number" : "" }, name in line ? cell(line[name]) : "")));
    const head = node("tr", {}, ...columns.map((name) => node("th", {}, name)));
    table.replaceChildren(node("table", {}, node("thead", {}, head), node("tbody", {}, ...lines.map(row))));
  }

  /** Pictures, the newest first; one that is written again is loaded again. */
  showPictures(details) {
    const there = details.pictures;
    $("pictures").hidden = there.length === 0;
    const figures = there.map(({ name, time }) => {
      if (!this.pictures.has(name)) {
        const link = node("a", { target: "_blank", rel: "noopener" }, node("img", { alt: name, loading: "lazy" }));
        this.pictures.set(name, { time: 0, link, figure: node("figure", {}, link, node("figcaption", {}, name)) });
      }
      const picture = this.pictures.get(name);
      if (picture.time !== time) {
        picture.time = time;
        picture.link.href = address("picture", { run: this.name, file: name, time });
        picture.link.firstElementChild.src = picture.link.href;
      }
      return picture.figure;
    });
    const grid = $("pictures").querySelector(".thumbnails");
    const same = figures.length === grid.children.length && figures.every((figure, i) => grid.children[i] === figure);
    if (!same) grid.replaceChildren(...figures);
    const more = details.pictures_in_all - there.length;
    $("pictures").lastElementChild.textContent = more > 0 ? `The newest ${there.length}; there are ${more} more.` : "";
  }

  showLog(lines) {
    const log = $("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
    log.textContent = lines.length ? plain(lines.join("\n")) : "Nothing yet.";
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  /** What the machines do, as the report has it. */
  showMachine(machines) {
    const parts = $("machine").lastElementChild;
    for (const [file, { table }] of machines) {
      const there = (name) => table.columns.has(name);
      const gpus = [...table.columns.keys()].map((name) => /^gpu(\d+)_/.exec(name)?.[1]).filter(Boolean);
      const numbers = [...new Set(gpus)].sort((a, b) => a - b);
      const charts = [...state.known.machine, ...state.known.gpu.map(([title, unit, name]) =>
        [title, unit, numbers.map((n) => [`gpu${n}_${name}`, `gpu${n}`])])];
      for (const [title, unit, wanted] of charts) {
        const curves = wanted.filter(([name]) => there(name)).map(([name, label], n) => {
          const [x, y] = table.points(name);
          return { label, colour: colour(n), x, y: y.map((value) => value / unit) };
        });
        if (!curves.length) continue;
        const key = JSON.stringify([file, title]);
        if (!this.machines.has(key)) {
          const rank = machines.size > 1 ? ` · rank ${/\d+/.exec(file)?.[0] ?? 0}` : "";
          this.machines.set(key, new Chart(`${title}${rank}`, `machine ${file}`, "hours"));
          if (!parts.firstChild) parts.append(node("div", { class: "live" }));
          parts.firstChild.append(this.machines.get(key).node);
        }
        this.machines.get(key).draw(curves, { smoothing: 0, log: false });
        $("machine").hidden = false;
      }
    }
  }

  /** The report's own sections. Nothing in them can run: the server escapes text, and the page's policy forbids it. */
  async showSections(id) {
    if (this.sections === id) return;
    const text = await ask("api/sections", { run: this.name }, "text");
    const open = [...$("sections").querySelectorAll("details")].map((details) => details.open);
    $("sections").replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
    const now = $("sections").querySelectorAll("details");
    if (now.length === open.length) now.forEach((details, i) => { details.open = open[i]; });
    this.sections = id;
  }
}
