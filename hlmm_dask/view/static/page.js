// The page of Dask's dashboard: asks the scheduler for what is new and gives it to the view.
import view from "./dashboard.js";

class Model {
  constructor() {
    this.values = {};
    this.listeners = {};
  }
  get(name) {
    return this.values[name];
  }
  set(name, value) {
    this.values[name] = value;
  }
  save_changes() {}
  on(event, listener) {
    (this.listeners[event] ??= []).push(listener);
  }
  take(pieces) {
    Object.assign(this.values, pieces);
    for (const name of Object.keys(pieces)) {
      for (const listener of this.listeners[`change:${name}`] ?? []) listener();
    }
  }
}

const ask = async (address) => {
  const answer = await fetch(address, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
};
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

const picker = document.getElementById("hlmm-runs");
const place = document.getElementById("hlmm-view");
let shown = null;
let chosen = null;

async function follow(run) {
  shown = run;
  const model = new Model();
  place.replaceChildren();
  const clean = view.render({ model, el: place });
  let since = 0;
  while (shown === run) {
    let wait = 2;
    try {
      const { version, wait: left, pieces } = await ask(
        `hlmm/data?run=${encodeURIComponent(run)}&since=${since}`);
      if (version !== since) model.take(pieces);
      since = version;
      wait = Math.min(5, Math.max(0.2, left));
    } catch {
      // The scheduler is gone or busy; what was seen stays.
      wait = 5;
    }
    await sleep(wait);
  }
  clean();
}

function pick(runs) {
  picker.replaceChildren();
  if (!runs.length) picker.textContent = "No scan has been started on this cluster yet.";
  if (runs.length < 2) return;
  const select = document.createElement("select");
  select.setAttribute("aria-label", "Scan");
  for (const run of runs) select.append(new Option(run, run, false, run === shown));
  select.addEventListener("change", () => {
    chosen = select.value;
    follow(chosen);
  });
  picker.append(select);
}

let known = "";
for (;;) {
  try {
    const { runs } = await ask("hlmm/runs");
    if (JSON.stringify(runs) !== known) {
      known = JSON.stringify(runs);
      const wanted = runs.includes(chosen) ? chosen : runs[0];
      if (wanted && wanted !== shown) follow(wanted);
      pick(runs);
    }
  } catch {
    // Ask again.
  }
  await sleep(3);
}
