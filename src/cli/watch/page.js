// The page: a list of runs, or one of them. It asks again and again for what is new.

import { $, plain } from "./dom.js";
import { showList } from "./list.js";
import { run, state, wanted } from "./state.js";
import { ask, Away } from "./store.js";
import { View } from "./view.js";

/** Time from look to look, in milliseconds; and how many looks at a run go by for one at the list. */
const EVERY = 2000;
const LIST_EVERY = 5;

const partLinks = document.querySelectorAll("#parts a");
/** The run that is open. */
let view = null;

async function showRun({ open, others }) {
  if (view?.name !== open) {
    view?.remove();
    view = new View(open);
  }
  const mine = view;
  const details = await ask("api/run", { run: open });
  if (view !== mine) return;
  mine.showHead(details);
  mine.showOthers(others);
  await Promise.all([open, ...others].map((name) => run(name).pullMetrics(state.known.positions)));
  if (view !== mine) return;
  mine.showCurves();
  mine.showPictures(details);
  if (await run(open).pullLog() || !$("log").textContent) mine.showLog(run(open).log);
  await Promise.all(details.machines.map((file) => run(open).pullMachine(file)));
  if (view !== mine) return;
  mine.showMachine(run(open).machines);
  for (const link of partLinks) link.hidden = document.querySelector(link.getAttribute("href")).hidden;
  await mine.showSections(details.sections);
}

let looking = null, again = false, looks = 0, timer;

function tell(words) {
  $("away").hidden = !words;
  $("away").textContent = plain(words);
}

/** Asks for what is new, and shows it; then again after a while. */
async function look() {
  if (looking) {
    again = true;
    return;
  }
  clearTimeout(timer);
  looking = (async () => {
    try {
      if (!view || looks++ % LIST_EVERY === 0) state.known = await ask("api/runs");
      const now = wanted();
      if (now.open) {
        await showRun(now);
      } else {
        view?.remove();
        view = null;
        showList(state.known);
      }
      tell("");
    } catch (e) {
      if (e instanceof Away) tell("The server does not answer: was nepa watch ended? It is tried again.");
      else if (e instanceof Error) tell(e.message);
    }
  })();
  await looking;
  looking = null;
  if (again) {
    again = false;
    return look();
  }
  timer = setTimeout(look, EVERY);
}

$("smoothing").addEventListener("input", () => {
  $("smoothed").textContent = $("smoothing").value;
  view?.showCurves();
});
$("logarithmic").addEventListener("change", () => view?.showCurves());
for (const link of partLinks) {
  // The address says which run is shown: these lead to parts of the page without changing it.
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView({ behavior: "smooth" });
  });
}
addEventListener("hashchange", () => {
  if (wanted().open !== (view?.name ?? null)) scrollTo(0, 0);
  look();
});
look();
