// The list of runs.

import { $, duration, node, plain } from "./dom.js";

function dot(brief) {
  const bad = brief.error || /^(failed|killed)/.test(brief.state);
  return node("span", { class: `dot ${brief.live ? "live" : bad ? "bad" : ""}` });
}

/** Where a run stands that has not finished. */
export function progressWords({ state, live, progress }) {
  if (!progress || state === "finished") return "";
  const { phase, step, steps, steps_per_second: pace } = progress;
  const of = steps ? ` of ${steps} · ${Math.floor((100 * step) / steps)} %` : "";
  return `${phase ? `${phase}: ` : ""}step ${step}${of}${pace && live ? ` · ${pace.toPrecision(3)} steps/s` : ""}`;
}

/** How long it will take. */
export function left(brief) {
  return brief.live && brief.progress?.seconds_left > 0 ? `ETA ${duration(brief.progress.seconds_left)}` : "";
}

/** How much of its steps a loop has made, from 0 to 1; null if it does not say how many there are. */
export function fraction(progress) {
  return progress?.steps ? Math.min(1, progress.step / progress.steps) : null;
}

/** Shows what the server says of its runs. */
export function showList(known) {
  $("list").hidden = false;
  $("run").hidden = true;
  document.title = "nepa watch";
  $("folder").textContent = plain(`${known.runs.length} run${known.runs.length === 1 ? "" : "s"} in ${known.folder}`);
  $("none").hidden = known.runs.length > 0;
  // Those that run first, then the newest.
  const sorted = [...known.runs].sort((a, b) =>
    Number(b.live ?? false) - Number(a.live ?? false) || (b.started ?? "").localeCompare(a.started ?? ""));
  const rows = sorted.map((brief) => {
    const link = node("a", { href: `#${new URLSearchParams([["run", brief.name]])}` }, brief.name);
    if (brief.error) {
      const told = node("td", { colspan: 3, class: "error" }, [brief.error, brief.hint].filter(Boolean).join("; "));
      return node("tr", {}, node("th", { scope: "row" }, dot(brief), link), told);
    }
    const cell = node("td", {}, progressWords(brief));
    const part = brief.live ? fraction(brief.progress) : null;
    if (part !== null) cell.append(node("br"), node("progress", { max: 1, value: part }), ` ${left(brief)}`);
    const started = (brief.started ?? "").replace("T", " ").replace("Z", "");
    return node("tr", {}, node("th", { scope: "row" }, dot(brief), link), node("td", {}, brief.state), cell,
      node("td", { class: "note" }, started && `${started} UTC`));
  });
  const head = node("tr", {}, ...["run", "state", "progress", "started"].map((text) => node("th", {}, text)));
  $("runs").replaceChildren(...(rows.length
    ? [node("table", { class: "runs" }, node("thead", {}, head), node("tbody", {}, ...rows))] : []));
}
