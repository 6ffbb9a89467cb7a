// What is known of runs. Files that grow are asked for in parts: what came since they were asked for last.

/** The server did not answer at all. */
export class Away extends Error {}

/** Asks the server; an answer that is a refusal or an error is thrown with its words. */
export async function ask(path, params = {}, kind = "json") {
  let answer;
  try {
    answer = await fetch(address(path, params));
  } catch {
    throw new Away();
  }
  if (answer.ok) return answer[kind]();
  const told = await answer.json().catch(() => ({}));
  throw new Error([told.error ?? `the server answers ${answer.status}`, told.hint].filter(Boolean).join("; "));
}

export function address(path, params) {
  const query = new URLSearchParams(params).toString();
  return query ? `${path}?${query}` : path;
}

/** The most lines that are kept of a log, and of a phase without steps. */
const MOST_LINES = 1000;
/** Bytes at the end of a log that is opened. */
const LAST_BYTES = 65536;

/** How JSON writes what is no finite number. */
const NOT_FINITE = ["NaN", "inf", "-inf"];

/** Columns of numbers over one axis; what is not finite is NaN in them. */
class Table {
  x = [];
  columns = new Map();

  add(x, line, isValue) {
    for (const [name, value] of Object.entries(line)) {
      const finite = typeof value === "number";
      if (!(finite || NOT_FINITE.includes(value)) || !isValue(name)) continue;
      if (!this.columns.has(name)) this.columns.set(name, []);
      const column = this.columns.get(name);
      while (column.length < this.x.length) column.push(null);
      column.push(finite ? value : NaN);
    }
    this.x.push(x);
  }

  /**
   * The points of a column, with null for what is not finite: there the curve breaks. Where its places do not grow, they are
   * counted; lines of other columns may share them.
   */
  points(name) {
    const x = [], y = [];
    (this.columns.get(name) ?? []).forEach((value, i) => {
      if (value === null) return;
      x.push(this.x[i]);
      y.push(Number.isNaN(value) ? null : value);
    });
    const ascending = x.every((place, i) => i === 0 || place > x[i - 1]);
    return [ascending ? x : x.map((_, i) => i + 1), y];
  }
}

/** A phase of a run: curves over steps, or, where lines have no steps, the lines. */
class Phase {
  table = new Table();
  lines = [];
}

/** A file of a run, as far as it is known. */
class Growing {
  id = "";
  bytes = 0;

  /** What came: `anew()` if it is another file than before, then `line(text)` for each line. Gives whether any came. */
  async pull(run, file, anew, line, last) {
    let came = false, part;
    do {
      const known = { run, file, id: this.id, bytes: this.bytes };
      part = await ask("api/lines", last ? { ...known, last } : known);
      if (part.anew) { anew(); came = true; }
      this.id = part.id;
      this.bytes = part.bytes;
      for (const text of part.text.split("\n")) {
        if (text) { line(text); came = true; }
      }
    } while (part.more);
    return came;
  }
}

function parsed(text) {
  try {
    const line = JSON.parse(text);
    return line && typeof line === "object" ? line : null;
  } catch {
    return null;
  }
}

/** A run. */
export class Run {
  phases = new Map();
  machines = new Map();
  log = [];
  #metrics = new Growing();
  #logFile = new Growing();

  constructor(name) { this.name = name; }

  pullMetrics(positions) {
    const isValue = (name) => !positions.includes(name);
    return this.#metrics.pull(this.name, "metrics.jsonl", () => this.phases.clear(), (text) => {
      const line = parsed(text);
      if (!line) return;
      const name = typeof line.phase === "string" ? line.phase : "no phase";
      if (!this.phases.has(name)) this.phases.set(name, new Phase());
      const phase = this.phases.get(name);
      if (typeof line.step === "number") return phase.table.add(line.step, line, isValue);
      phase.lines.push(line);
      if (phase.lines.length > MOST_LINES) phase.lines.shift();
    });
  }

  pullLog() {
    return this.#logFile.pull(this.name, "run.log", () => { this.log.length = 0; }, (text) => {
      this.log.push(text);
      if (this.log.length > MOST_LINES) this.log.shift();
    }, LAST_BYTES);
  }

  /** What the machine did, over hours from the first line on. */
  async pullMachine(file) {
    if (!this.machines.has(file)) this.machines.set(file, { file: new Growing(), table: new Table() });
    const machine = this.machines.get(file);
    const anew = () => Object.assign(machine, { table: new Table(), start: undefined });
    return machine.file.pull(this.name, file, anew, (text) => {
      const line = parsed(text);
      if (typeof line?.time !== "number") return;
      machine.start ??= line.time;
      machine.table.add((line.time - machine.start) / 3600, line, (name) => name !== "time");
    });
  }
}
