// What is shown of what is known. It stands in the address: #run=NAME&with=OTHER&with=ANOTHER.

import { Run } from "./store.js";

/** What the server said last: the runs, and how numbers are drawn. */
export const state = {
  known: { runs: [], titles: [], positions: [], machine: [], gpu: [], is_run: false },
};
const runs = new Map();

/** The run that is open, if one is, and those over its curves. */
export function wanted() {
  const query = new URLSearchParams(location.hash.slice(1));
  const { known } = state;
  const open = query.get("run") ?? (known.is_run ? known.runs[0]?.name : null);
  return { open: open ?? null, others: query.getAll("with").filter((name) => name !== open) };
}

/** Opens a run with others over its curves. */
export function go(open, others) {
  const query = new URLSearchParams([["run", open], ...others.map((name) => ["with", name])]);
  location.replace(`#${query}`);
}

/** The data of a run. */
export function run(name) {
  if (!runs.has(name)) runs.set(name, new Run(name));
  return runs.get(name);
}
